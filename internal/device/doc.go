// Package device wires a host: the bridge that containers and an overlay meet on, the port of the overlay, the veth pairs of
// the containers, and the rules of the packet filter that let the overlay through. All is done with netlink, in the network
// namespace of the calling thread, and no binary is needed. The names and the settings are those of section 9 of the overlay
// specification of Weave Net 2.8, so that a host can be taken over as it is.
//
// Nothing here keeps state: what is there already and fits is adopted, removing what does not exist is not an error, and
// a call that fails takes back what it made. Errors that more privileges would avoid wrap [os.ErrPermission] and say so.
// All functions are safe for concurrent use, as far as they concern different devices.
package device
