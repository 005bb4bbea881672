// Package engine is the server side of an AMQP 1.0 connection as a state
// machine without I/O: bytes and the time go in, bytes and events come out.
// Package amqp puts it behind a net.Conn; use this package directly for
// another transport or for deterministic tests.
//
//	           Input(now, bytes)            Output, TakeOutput
//	peer  ------------------------>  Conn  -------------------->  peer
//	                                 |  ^
//	                           Next  |  |  AcceptOpen, AcceptAttach,
//	                                 v  |  Settle, Send, Detach, Close ...
//	                              application
//
// The driver calls Input with what it has read, takes all events with Next and
// answers them, now or later, calls Flush once, and writes what TakeOutput
// returns. It calls Tick at Deadline. Flush gathers what is cheaper together:
// credit, session windows, ranges of dispositions, and the transfers of all
// links in turn, one frame each, so that no link starves another.
//
// The phases of a connection:
//
//	header -> sasl <-> sasl decision -> second header -> open decision -> open -> closing -> done
//	   \________________________________________________/
//	                 without SASL
//
// While a decision is pending (SASL, open), input waits. Attaching a link may
// be decided at leisure, for other links go on meanwhile.
//
// A Conn bounds what a peer can make it hold; see [Options]. When the peer does
// not read, or the application does not settle, WantsInput says that the driver
// must stop reading; the peer feels that as TCP's back-pressure.
//
// Nothing in this package may be called from two goroutines at once.
package engine
