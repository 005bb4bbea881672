package wire_test

import (
	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// scalars generates a value of each scalar type.
func scalars() []*rapid.Generator[wire.Value] {
	text := rapid.StringN(-1, 300, 900)
	fixed := func(n int) *rapid.Generator[[]byte] { return rapid.SliceOfN(rapid.Byte(), n, n) }
	return []*rapid.Generator[wire.Value]{
		rapid.Just(wire.Value{}),
		rapid.Map(rapid.Bool(), wire.Bool),
		rapid.Map(rapid.Uint8(), wire.Ubyte), rapid.Map(rapid.Uint16(), wire.Ushort),
		rapid.Map(rapid.Uint32(), wire.Uint), rapid.Map(rapid.Uint64(), wire.Ulong),
		rapid.Map(rapid.Int8(), wire.Byte), rapid.Map(rapid.Int16(), wire.Short),
		rapid.Map(rapid.Int32(), wire.Int), rapid.Map(rapid.Int64(), wire.Long),
		rapid.Map(rapid.Float32(), wire.Float), rapid.Map(rapid.Float64(), wire.Double),
		rapid.Map(fixed(4), func(b []byte) wire.Value { return wire.Decimal32([4]byte(b)) }),
		rapid.Map(fixed(8), func(b []byte) wire.Value { return wire.Decimal64([8]byte(b)) }),
		rapid.Map(fixed(16), func(b []byte) wire.Value { return wire.Decimal128([16]byte(b)) }),
		rapid.Map(rapid.Rune(), wire.Char),
		rapid.Map(rapid.Int64(), func(n int64) wire.Value { return wire.TimestampValue(wire.Timestamp(n)) }),
		rapid.Map(fixed(16), func(b []byte) wire.Value { return wire.UUID([16]byte(b)) }),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), wire.Binary),
		rapid.Map(text, wire.String), rapid.Map(text, wire.Symbol),
	}
}

// values generates a value of any type, nested up to depth.
func values(depth int) *rapid.Generator[wire.Value] {
	gens := scalars()
	if depth > 0 {
		inner := values(depth - 1)
		gens = append(gens,
			rapid.Map(rapid.SliceOfN(inner, 0, 6), func(v []wire.Value) wire.Value { return wire.List(v...) }),
			rapid.Map(maps(depth-1), wire.Map.Value),
			rapid.Custom(func(t *rapid.T) wire.Value {
				return wire.Described(rapid.SampledFrom([]wire.Value{wire.Ulong(7), wire.Symbol("a:b")}).Draw(t, "d"), inner.Draw(t, "v"))
			}),
			arrays(depth-1))
	}
	return rapid.OneOf(gens...)
}

func arrays(depth int) *rapid.Generator[wire.Value] {
	return rapid.Custom(func(t *rapid.T) wire.Value {
		of := scalars()
		if depth > 0 {
			of = append(of, arrays(depth-1), rapid.Map(maps(0), wire.Map.Value))
		}
		items := rapid.SliceOfN(rapid.SampledFrom(of).Draw(t, "element"), 1, 6).Draw(t, "items")
		if rapid.Bool().Draw(t, "described") {
			for i := range items {
				items[i] = wire.Described(wire.Symbol("d"), items[i])
			}
		}
		return wire.Array(items...)
	})
}

func maps(depth int) *rapid.Generator[wire.Map] {
	return rapid.Custom(func(t *rapid.T) wire.Map {
		var m wire.Map
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			m = append(m, wire.Pair{Key: wire.Symbol(rapid.String().Draw(t, "k")), Value: values(depth).Draw(t, "v")})
		}
		return m
	})
}

func messages() *rapid.Generator[*wire.Message] {
	return rapid.Custom(func(t *rapid.T) *wire.Message {
		text := rapid.StringN(0, 20, -1)
		m := &wire.Message{Annotations: maps(1).Draw(t, "a"), ApplicationProperties: maps(0).Draw(t, "p"), Footer: maps(0).Draw(t, "f")}
		if rapid.Bool().Draw(t, "header") {
			m.Header = &wire.Header{Durable: true, Priority: rapid.Uint8().Draw(t, "prio"), TTL: wire.Some(rapid.Uint32().Draw(t, "ttl"))}
		}
		if rapid.Bool().Draw(t, "properties") {
			m.Properties = &wire.Properties{
				MessageID: values(0).Draw(t, "id"), To: text.Draw(t, "to"), ContentType: text.Draw(t, "ct"),
				UserID:       []byte(text.Draw(t, "user")),
				CreationTime: wire.Some(wire.Timestamp(rapid.Int64().Draw(t, "created"))), GroupSequence: wire.Some(uint32(7)),
			}
		}
		switch rapid.IntRange(0, 3).Draw(t, "body") {
		case 0:
			m.Data = rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 400), 1, 3).Draw(t, "data")
		case 1:
			m.Value = wire.Some(values(2).Draw(t, "value"))
		case 2:
			m.Sequences = [][]wire.Value{rapid.SliceOfN(values(1), 1, 4).Draw(t, "sequence")}
		}
		return m
	})
}

func states() *rapid.Generator[wire.State] {
	return rapid.OneOf(rapid.Just(wire.State{}), rapid.Just(wire.Accepted()), rapid.Just(wire.Released()),
		rapid.Just(wire.Rejected(&wire.Error{Condition: wire.CondNotFound, Description: "gone", Info: wire.Map{}.WithSymbol("k", wire.Int(1))})),
		rapid.Just(wire.Modified(true, false)), rapid.Just(wire.State{Code: wire.StateReceived, SectionNumber: 3, SectionOffset: 1 << 40}))
}

// performatives generates frames of every kind.
func performatives() *rapid.Generator[wire.Performative] {
	return rapid.Custom(func(t *rapid.T) wire.Performative {
		u32 := func(n string) uint32 { return rapid.Uint32().Draw(t, n) }
		opt := func(n string) wire.Opt[uint32] {
			if rapid.Bool().Draw(t, n+"?") {
				return wire.Some(u32(n))
			}
			return wire.Opt[uint32]{}
		}
		yes := func(n string) bool { return rapid.Bool().Draw(t, n) }
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			return &wire.Open{ContainerID: "c", Hostname: rapid.String().Draw(t, "h"), MaxFrameSize: u32("m"), ChannelMax: rapid.Uint16().Draw(t, "ch"), IdleTimeout: u32("i"), OfferedCapabilities: []string{"a", "b"}, Properties: nonEmpty(t)}
		case 1:
			return &wire.Begin{RemoteChannel: wire.Some(uint16(3)), NextOutgoingID: u32("n"), IncomingWindow: u32("i"), OutgoingWindow: u32("o"), HandleMax: u32("h")}
		case 2:
			return &wire.Attach{Name: "l", Handle: u32("h"), Role: wire.Role(yes("r")), SenderMode: rapid.Uint8Range(0, 2).Draw(t, "s"), ReceiverMode: rapid.Uint8Range(0, 1).Draw(t, "rm"),
				Source: &wire.Source{Address: "a", Filter: nonEmpty(t), DefaultOutcome: states().Draw(t, "o"), Outcomes: []string{"amqp:accepted:list"}, Dynamic: yes("d")},
				Target: &wire.Target{Address: rapid.String().Draw(t, "ta"), Timeout: u32("t")}, InitialDeliveryCount: opt("idc"), MaxMessageSize: rapid.Uint64().Draw(t, "mms"), Properties: nonEmpty(t)}
		case 3:
			return &wire.Flow{NextIncomingID: opt("ni"), IncomingWindow: u32("iw"), NextOutgoingID: u32("no"), OutgoingWindow: u32("ow"), Handle: opt("h"), DeliveryCount: opt("dc"), LinkCredit: opt("lc"), Drain: yes("d"), Echo: yes("e")}
		case 4:
			return &wire.Transfer{Handle: u32("h"), DeliveryID: opt("id"), DeliveryTag: []byte("tag"), MessageFormat: opt("mf"), Settled: wire.Some(yes("s")), More: yes("m"), ReceiverMode: wire.Some(uint8(1)), State: states().Draw(t, "st"), Aborted: yes("a")}
		case 5:
			return &wire.Disposition{Role: wire.Role(yes("r")), First: u32("f"), Last: opt("l"), Settled: yes("s"), State: states().Draw(t, "st"), Batchable: yes("b")}
		case 6:
			return &wire.Detach{Handle: u32("h"), Closed: yes("c"), Error: wire.Errorf("x:y", "why")}
		case 7:
			return &wire.End{Error: wire.Errorf("x:y", "why")}
		case 8:
			return &wire.Close{}
		}
		return &wire.Attach{Name: "t", SenderMode: wire.SenderMixed, Target: &wire.Target{Coordinator: true, Capabilities: []string{"x"}}}
	})
}

func nonEmpty(t *rapid.T) wire.Map {
	return append(wire.Map{}.WithSymbol("com.example:k", wire.String("v")), maps(1).Draw(t, "map")...)
}
