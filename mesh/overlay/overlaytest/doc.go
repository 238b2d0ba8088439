// Package overlaytest holds in-memory twins of the seams of package overlay, and the suite of tests that every carrier of
// frames passes.
//
//   - [Network] joins links of in-memory overlays: for tests of what stands on links, such as the switch or the mesh.
//   - [Port] is a port whose host is the test.
//   - [Connect] stands for a mesh connection between two overlays; [TestOverlay] is the suite for the authors of carriers.
//
// All of it blocks on channels only and so can be used in bubbles of testing/synctest, where waiting costs nothing.
package overlaytest
