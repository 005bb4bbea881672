package metrics

import (
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// quantiles are those of the original's code and of its documentation together.
var quantiles = []float64{0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999}

// maxVars is the most labels that a summary has besides the constant ones.
const maxVars = 4

// summaries is a collector of summaries with the same name. The library's own keep
// samples, which for the last quantiles and thousands of messages a second is much
// memory and time; these count in buckets, each an eighth of a power of two wide
// (a quantile is at most 7 % off), and so have a fixed size.
type summaries struct {
	desc   *prometheus.Desc
	vars   int
	maxAge time.Duration

	mu     sync.RWMutex
	series map[[maxVars]string]*digest
}

func newSummaries(name, help string, maxAge time.Duration, labels prometheus.Labels, vars ...string) *summaries {
	return &summaries{desc: prometheus.NewDesc("edgehub_"+name, help, vars, labels), vars: len(vars),
		maxAge: maxAge, series: make(map[[maxVars]string]*digest)}
}

// observe notes a value; labels has as many as the summaries have variables.
func (s *summaries) observe(v float64, labels ...string) {
	var key [maxVars]string
	copy(key[:], labels)
	s.mu.RLock()
	d := s.series[key]
	s.mu.RUnlock()
	if d == nil {
		s.mu.Lock()
		if d = s.series[key]; d == nil {
			d = &digest{turned: time.Now()}
			s.series[key] = d
		}
		s.mu.Unlock()
	}
	d.observe(v, time.Now(), s.maxAge/2)
}

func (s *summaries) seconds(d time.Duration, labels ...string) { s.observe(d.Seconds(), labels...) }

// Describe names the series.
func (s *summaries) Describe(c chan<- *prometheus.Desc) { c <- s.desc }

// Collect reads them.
func (s *summaries) Collect(c chan<- prometheus.Metric) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, d := range s.series {
		count, sum, values := d.read(time.Now(), s.maxAge/2)
		c <- prometheus.MustNewConstSummary(s.desc, count, sum, values, key[:s.vars]...)
	}
}

// Buckets hold values from 2^minExp to 2^maxExp; the first and the last hold what is
// beyond. Durations are in seconds, sizes in bytes.
const (
	minExp, maxExp = -20, 24
	perPower       = 8
	buckets        = (maxExp - minExp) * perPower
)

// digest is one summary. The quantiles are of what came since the last turn and in
// the half of the age before it.
type digest struct {
	mu      sync.Mutex
	count   uint64
	sum     float64
	turned  time.Time
	current int
	halves  [2][buckets]uint32
}

func bucket(v float64) int {
	if !(v > 0) { // NaN too
		return 0
	}
	// The exponent and the first three bits of the mantissa, as one number.
	i := int(math.Float64bits(v)>>(52-3)) - (1023+minExp)*perPower
	return min(max(i, 0), buckets-1)
}

// value is the middle of a bucket.
func value(i int) float64 {
	at := func(i int) float64 { return math.Float64frombits(uint64(i+(1023+minExp)*perPower) << (52 - 3)) }
	return (at(i) + at(i+1)) / 2
}

// turn forgets what is too old. d.mu is held.
func (d *digest) turn(now time.Time, half time.Duration) {
	for n := 0; n < 2 && now.Sub(d.turned) >= half; n++ {
		d.turned = d.turned.Add(half)
		d.current = 1 - d.current
		clear(d.halves[d.current][:])
	}
	if now.Sub(d.turned) >= half {
		d.turned = now
	}
}

func (d *digest) observe(v float64, now time.Time, half time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn(now, half)
	d.count++
	d.sum += v
	if n := &d.halves[d.current][bucket(v)]; *n < math.MaxUint32 {
		*n++
	}
}

// read returns the quantiles; NaN when nothing is young enough.
func (d *digest) read(now time.Time, half time.Duration) (count uint64, sum float64, values map[float64]float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn(now, half)
	var total uint64
	for i := range buckets {
		total += uint64(d.halves[0][i]) + uint64(d.halves[1][i])
	}
	values = make(map[float64]float64, len(quantiles))
	var seen uint64
	next := 0
	for i := 0; i < buckets && next < len(quantiles) && total > 0; i++ {
		seen += uint64(d.halves[0][i]) + uint64(d.halves[1][i])
		for next < len(quantiles) && float64(seen) >= math.Ceil(quantiles[next]*float64(total)) {
			values[quantiles[next]] = value(i)
			next++
		}
	}
	for ; next < len(quantiles); next++ {
		values[quantiles[next]] = math.NaN()
	}
	return d.count, d.sum, values
}
