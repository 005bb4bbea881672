package wire

// SASLMechanisms offers mechanisms; it is the server's first SASL frame.
type SASLMechanisms struct{ Mechanisms []string }

func (p *SASLMechanisms) appendTo(b []byte) []byte {
	w := beginList(b, codeSASLMechanisms)
	w.wrote(AppendValue(w.b, Symbols(p.Mechanisms...))) // an array even of one: peers demand it
	return w.finish()
}

func (p *SASLMechanisms) readFrom(r *reader) {
	f := r.list()
	p.Mechanisms = f.symbols()
	f.close()
}

// SASLInit chooses a mechanism. After decoding, InitialResponse aliases the
// frame.
type SASLInit struct {
	Mechanism       string
	InitialResponse []byte
	Hostname        string
}

func (p *SASLInit) appendTo(b []byte) []byte {
	w := beginList(b, codeSASLInit)
	w.wrote(appendVar(w.b, 0xa3, p.Mechanism))
	w.bytes(p.InitialResponse)
	w.text(p.Hostname)
	return w.finish()
}

func (p *SASLInit) readFrom(r *reader) {
	f := r.list()
	p.Mechanism, p.InitialResponse, p.Hostname = f.text(), f.bytes(), f.text()
	f.close()
}

// SASLChallenge asks the client for more.
type SASLChallenge struct{ Challenge []byte }

func (p *SASLChallenge) appendTo(b []byte) []byte {
	w := beginList(b, codeSASLChallenge)
	w.wrote(appendVar(w.b, 0xa0, p.Challenge))
	return w.finish()
}

func (p *SASLChallenge) readFrom(r *reader) {
	f := r.list()
	p.Challenge = f.bytes()
	f.close()
}

// SASLResponse answers a challenge. After decoding, Response aliases the
// frame.
type SASLResponse struct{ Response []byte }

func (p *SASLResponse) appendTo(b []byte) []byte {
	w := beginList(b, codeSASLResponse)
	w.wrote(appendVar(w.b, 0xa0, p.Response))
	return w.finish()
}

func (p *SASLResponse) readFrom(r *reader) {
	f := r.list()
	p.Response = f.bytes()
	f.close()
}

// The codes of a SASLOutcome.
const (
	SASLOK      uint8 = 0
	SASLAuth    uint8 = 1 // the credentials were refused
	SASLSys     uint8 = 2
	SASLSysPerm uint8 = 3
	SASLSysTemp uint8 = 4 // try again later
)

// SASLOutcome ends the SASL exchange.
type SASLOutcome struct {
	Code           uint8
	AdditionalData []byte
}

func (p *SASLOutcome) appendTo(b []byte) []byte {
	w := beginList(b, codeSASLOutcome)
	w.u8(p.Code, 0xff)
	w.bytes(p.AdditionalData)
	return w.finish()
}

func (p *SASLOutcome) readFrom(r *reader) {
	f := r.list()
	p.Code, p.AdditionalData = f.u8(SASLSys), f.bytes()
	f.close()
}
