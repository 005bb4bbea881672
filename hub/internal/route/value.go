package route

// kind is the type of a value at run time. The order of bool to null is the rank
// by which dynamic values of different types compare (spec edgehub-routing 5.4).
type kind uint8

const (
	kindUndefined kind = iota
	kindBool
	kindNumber
	kindString
	kindNull
	kindNullString // a property that is present without a value
)

// value is one value of the language; the zero value is undefined. A number is
// never NaN: that is undefined.
type value struct {
	kind kind
	flag bool // of a bool; of a null: it stands for something missing
	num  float64
	str  string
}

var (
	undefined = value{}
	nullValue = value{kind: kindNull}
)

func boolean(b bool) value { return value{kind: kindBool, flag: b} }

func number(f float64) value {
	if f != f {
		return undefined
	}
	return value{kind: kindNumber, num: f}
}

func text(s string) value { return value{kind: kindString, str: s} }

func (v value) isTrue() bool  { return v.kind == kindBool && v.flag }
func (v value) isFalse() bool { return v.kind == kindBool && !v.flag }
