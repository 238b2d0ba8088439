// Package gossiptest carries gossip between many peers in one process, in memory, with loss, repetition, delay, crashes
// and partitions drawn from a seed. It is for tests of components that stand on [gossip.Bus].
//
// A test makes a [Bus], a [Node] for each peer, joins components to the nodes' channels and runs the bus. Within a bubble
// of testing/synctest the time between messages costs nothing, and the same seed gives the same run, as far as the
// components are deterministic themselves: nothing here depends on the order in which goroutines happen to run.
//
// Every peer is the neighbour of every other that it can reach. Broadcasts spread along a binary tree, so they rely on
// what OnBroadcast returns, as they do in a real mesh. Delays vary, so messages overtake each other.
package gossiptest
