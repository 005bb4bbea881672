package route

// typ is the static type of an expression.
type typ uint8

const (
	typUndefined typ = iota
	typBool
	typNumber
	typString
	typNull
	typDynamic // a value from the body: its type shows at run time
)

func (t typ) String() string {
	switch t {
	case typBool:
		return "bool"
	case typNumber:
		return "number"
	case typString:
		return "string"
	case typNull:
		return "null"
	case typDynamic:
		return "body value"
	}
	return "undefined"
}

// accepts tells whether an operand of type given may stand where t is wanted.
func (t typ) accepts(given typ) bool {
	return t == given ||
		given == typDynamic && t != typUndefined ||
		t == typDynamic && given != typUndefined
}

// op is what a node does.
type op uint8

const (
	opLiteral  op = iota // val
	opProperty           // str: name
	opSystem             // str: name without $; with app, "$"+name is tried first
	opBody               // path; with app, an application property of that name comes first
	opCall               // fn, args
	opNegate
	opNot
	opAnd
	opOr
	opAdd
	opSub
	opMul
	opDiv
	opMod
	opEq
	opNe
	opLt
	opLe
	opGt
	opGe
	opCoalesce
)

// node is one typed expression. Nodes are immutable once parsed.
type node struct {
	op   op
	typ  typ
	val  value
	str  string
	app  bool
	path []step
	fn   *function
	args []*node
}

func literal(t typ, v value) *node { return &node{op: opLiteral, typ: t, val: v} }
