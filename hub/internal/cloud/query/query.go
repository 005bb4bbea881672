package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"
)

// Collection is what a query asks for.
type Collection uint8

// The collections.
const (
	Devices Collection = iota // twins of devices
	Modules                   // twins of modules
	Jobs                      // a job on one device; a hub may have none
)

// String returns the name in the language.
func (c Collection) String() string {
	return [...]string{"devices", "devices.modules", "devices.jobs"}[c]
}

// Query is a query that was understood. It does not change and may be used from many
// goroutines.
type Query struct {
	text    string
	source  Collection
	whole   bool // SELECT *
	top     int  // rows at most; -1: all
	items   []item
	where   expr // nil: all
	groups  []*path
	grouped bool // rows are groups
}

// item is a column.
type item struct {
	name      string
	path      *path  // nil for count
	aggregate string // lower case, or empty
	offset    int
}

// Parse reads a query. Errors are *route.Error.
func Parse(text string) (*Query, error) { return parse(text, (*parser).query) }

// Source returns what the query asks for.
func (q *Query) Source() Collection { return q.source }

// Whole tells whether rows are whole documents.
func (q *Query) Whole() bool { return q.whole }

// Doc is a document and its place in the order of all.
type Doc struct {
	Key  string // of its own; not empty
	Body map[string]any
}

// Docs returns the documents of a collection in their order: those behind the one with
// the key, which may be gone meanwhile, or all for "". An error ends the sequence.
type Docs func(after string) iter.Seq2[Doc, error]

// Page is some of the rows. Rows of a query for whole documents are those documents.
type Page struct {
	Rows []map[string]any
	Next string // token for the page that follows; empty if this is the last
}

// ErrToken tells that a token does not belong to the query.
var ErrToken = errors.New("the continuation token is not of this query")

// pageToken is where a page begins.
type pageToken struct {
	Query []byte `json:"q"` // hash of the text
	Key   string `json:"k"` // of the last row
	Rows  int    `json:"n"` // before the page
}

func (q *Query) hash() []byte {
	sum := sha256.Sum256([]byte(q.text))
	return sum[:8]
}

func (q *Query) token(key string, rows int) string {
	raw, err := json.Marshal(pageToken{q.hash(), key, rows})
	if err != nil {
		panic(err) // bytes, a string and a number
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func (q *Query) parseToken(text string) (pageToken, error) {
	var t pageToken
	if text == "" {
		return t, nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(raw, &t) != nil || string(t.Query) != string(q.hash()) || t.Key == "" || t.Rows < 1 {
		return t, ErrToken
	}
	return t, nil
}

// Page returns at most so many rows (1 or more), from the beginning or from where the
// token of an earlier page says. Pages do not shift when documents come and go.
// Errors: ErrToken, and those of docs.
func (q *Query) Page(docs Docs, token string, most int) (Page, error) {
	t, err := q.parseToken(token)
	if err != nil {
		return Page{}, err
	}
	rows := q.selected(docs, t.Key)
	if q.grouped {
		if rows, err = q.groupRows(docs, t.Key); err != nil {
			return Page{}, err
		}
	}
	page := Page{Rows: []map[string]any{}}
	last := ""
	for row, err := range rows {
		n := t.Rows + len(page.Rows)
		switch {
		case err != nil:
			return Page{}, err
		case q.top >= 0 && n >= q.top:
			return page, nil
		case len(page.Rows) == most:
			page.Next = q.token(last, n)
			return page, nil
		}
		page.Rows, last = append(page.Rows, row.Body), row.Key
	}
	return page, nil
}

// matching returns the documents for which the condition is true.
func (q *Query) matching(docs Docs, after string) iter.Seq2[Doc, error] {
	return func(yield func(Doc, error) bool) {
		for d, err := range docs(after) {
			if err != nil {
				yield(Doc{}, err)
				return
			}
			if q.where != nil && q.where(d.Body) != true {
				continue
			}
			if !yield(d, nil) {
				return
			}
		}
	}
}

// selected returns the rows of a query without groups.
func (q *Query) selected(docs Docs, after string) iter.Seq2[Doc, error] {
	if q.whole {
		return q.matching(docs, after)
	}
	return func(yield func(Doc, error) bool) {
		for d, err := range q.matching(docs, after) {
			if err == nil {
				row := map[string]any{}
				for _, it := range q.items {
					if v := it.path.of(d.Body); v != undefined {
						row[it.name] = v
					}
				}
				d.Body = row
			}
			if !yield(d, err) {
				return
			}
		}
	}
}
