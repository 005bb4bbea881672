// Package query is the language in which back ends ask for twins (spec iothub-service
// 9; docs/queries.md for users):
//
//	text --Parse--> Query --Page--> rows, and a token for those that follow
//
// A Query knows no store: it is given documents in an order and works through them one
// at a time. Evaluation is total; what makes no sense for a document, as arithmetic
// with texts, is undefined for it, and only documents for which the condition is
// exactly true count.
//
// The language of routes (package route) has the same strings and errors, and nothing
// else in common: it checks types before it runs, knows no arrays and no objects, and
// its words may hold operators.
package query
