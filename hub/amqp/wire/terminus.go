package wire

// Source is where a link's messages come from. An empty Address is null.
type Source struct {
	Address               string
	Durable               uint32
	ExpiryPolicy          string // "" stands for the default, session-end
	Timeout               uint32
	Dynamic               bool
	DynamicNodeProperties Map
	DistributionMode      string
	Filter                Map // symbol to described value
	DefaultOutcome        State
	Outcomes              []string
	Capabilities          []string
}

func (s *Source) appendTo(b []byte) []byte {
	w := beginList(b, codeSource)
	w.text(s.Address)
	w.u32Default(s.Durable, 0)
	w.symbol(s.ExpiryPolicy)
	w.u32Default(s.Timeout, 0)
	w.bool(s.Dynamic)
	w.mapping(s.DynamicNodeProperties)
	w.symbol(s.DistributionMode)
	w.mapping(s.Filter)
	w.state(&s.DefaultOutcome)
	w.symbols(s.Outcomes)
	w.symbols(s.Capabilities)
	return w.finish()
}

func (s *Source) readFrom(r *reader) {
	if c := r.descriptor(); c != codeSource {
		r.fail("descriptor 0x%x instead of a source", c)
		return
	}
	f := r.list()
	s.Address = f.text()
	s.Durable = f.u32(0)
	s.ExpiryPolicy = f.text()
	s.Timeout = f.u32(0)
	s.Dynamic = f.bool()
	s.DynamicNodeProperties = f.mapping()
	s.DistributionMode = f.text()
	s.Filter = f.mapping()
	s.DefaultOutcome = f.state()
	s.Outcomes, s.Capabilities = f.symbols(), f.symbols()
	f.close()
}

// Target is where a link's messages go. An empty Address is null. Coordinator
// marks the target of a link that controls transactions, whose Capabilities
// are all that is kept.
type Target struct {
	Address               string
	Durable               uint32
	ExpiryPolicy          string // "" stands for the default, session-end
	Timeout               uint32
	Dynamic               bool
	DynamicNodeProperties Map
	Capabilities          []string
	Coordinator           bool
}

func (t *Target) appendTo(b []byte) []byte {
	if t.Coordinator {
		w := beginList(b, codeCoordinator)
		w.symbols(t.Capabilities)
		return w.finish()
	}
	w := beginList(b, codeTarget)
	w.text(t.Address)
	w.u32Default(t.Durable, 0)
	w.symbol(t.ExpiryPolicy)
	w.u32Default(t.Timeout, 0)
	w.bool(t.Dynamic)
	w.mapping(t.DynamicNodeProperties)
	w.symbols(t.Capabilities)
	return w.finish()
}

func (t *Target) readFrom(r *reader) {
	switch c := r.descriptor(); c {
	case codeTarget:
	case codeCoordinator:
		f := r.list()
		t.Coordinator, t.Capabilities = true, f.symbols()
		f.close()
		return
	default:
		r.fail("descriptor 0x%x instead of a target", c)
		return
	}
	f := r.list()
	t.Address = f.text()
	t.Durable = f.u32(0)
	t.ExpiryPolicy = f.text()
	t.Timeout = f.u32(0)
	t.Dynamic = f.bool()
	t.DynamicNodeProperties = f.mapping()
	t.Capabilities = f.symbols()
	f.close()
}
