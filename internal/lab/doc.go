// Package lab makes hosts on this machine, to try networks with real sockets and real packets: each host is a network
// namespace, joined to others by links and switches, with containers behind it. It is for tests and demonstrations.
//
//	l, err := lab.New()
//	defer l.Close()
//	lan, err := l.Switch("lan")                                    //   a ---[lan]--- b
//	a, err := l.Host("a")
//	b, err := l.Host("b")
//	toA, err := lan.Join(a, netip.MustParsePrefix("10.0.0.1/24"))
//	toB, err := lan.Join(b, netip.MustParsePrefix("10.0.0.2/24"))
//	out, err := a.Command(ctx, "ping", "-c1", "10.0.0.2").Output()
//	err = toB.Cut()
//
// Nothing of a lab has a name on the machine: its namespaces are held by descriptors of this process alone, and the
// commands in them die with it. So nothing is left behind, even if this process is killed.
//
// Making namespaces takes privileges. Root has them; an ordinary user gets them in a user namespace, into which a program
// can only be started. [Reexec] starts this program there once more if that is needed; package labtest does it for tests.
package lab
