// Package route is the routing language of the edge hub and the table that
// applies it: which messages go to which endpoints, with which priority and time
// to live (spec edgehub-routing 1 to 5 and 6.1).
//
//	text --lexer--> tokens --parser--> typed nodes (Route, Condition)
//	nodes --generator--> closures over an environment (Table)
//	Table.Match: message source -> candidate routes -> conditions -> hits
//
// Types are checked when a text is compiled; evaluation is total: it cannot fail,
// it gives true, false, null, a number, a string or undefined, and only true
// routes a message. A Table parses the body of a message at most once, only when a
// route asks for it, and keeps nothing of it but the values at the paths that its
// routes name.
//
// What surprises: operators without blanks around them are swallowed by
// identifiers (`a-b` is one property), and NOT binds tighter than comparison. Both
// are part of the language that deployments rely on. docs/routing.md describes the
// language for users and lists where it differs from the original on purpose.
package route
