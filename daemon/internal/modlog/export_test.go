package modlog

var (
	ParseRecord  = parseRecord
	AppendRecord = appendRecord
)

// SmallLog is below the smallest size that users may ask for.
func SmallLog(size int64, files int) Settings { return Settings{MaxSize: size, MaxFiles: files} }

const (
	WholeLine = wholeLine
	Piece     = piece
	Unended   = unended
)
