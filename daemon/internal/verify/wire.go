package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// Forms of signatures.
const (
	FormNotation      = "notation"       // Payload is an envelope of MediaType
	FormSimpleSigning = "simple-signing" // Payload, with Signature (base64) over it
	FormBundle        = "bundle"         // Payload is a Sigstore bundle
)

// Signature is what a registry holds about an image. It is not to be believed
// before it was judged.
type Signature struct {
	Form      string `json:"form"`
	MediaType string `json:"mediaType,omitempty"`
	Payload   []byte `json:"payload"`
	Signature string `json:"signature,omitempty"`
}

// Descriptor is the image as its signatures name it.
type Descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// Request asks whether one of the signatures satisfies the rule.
type Request struct {
	Rule       Rule        `json:"rule"`
	Repository string      `json:"repository"`
	Image      Descriptor  `json:"image"`
	Trust      [][]byte    `json:"trust"` // by file
	Identities []string    `json:"identities,omitempty"`
	Signatures []Signature `json:"signatures"`
}

// Verdict is the answer.
type Verdict struct {
	Trusted bool `json:"trusted"`
	// By says who signed, Reason why the image is not trusted.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

const (
	// maxRequest bounds what the helper reads, maxVerdict what it answers.
	maxRequest = 16 << 20
	maxVerdict = 64 << 10
	// judgeTimeout bounds one run of the helper, on the slowest of devices.
	judgeTimeout = 30 * time.Second
)

// Serve is the helper's side: it reads one request and answers it.
func Serve(ctx context.Context, in io.Reader, out io.Writer, judge func(context.Context, Request) Verdict) error {
	data, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	var r Request
	if len(data) > maxRequest {
		return errors.New("request is too large")
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if err := json.NewEncoder(out).Encode(judge(ctx, r)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// bounded keeps the first bytes and drops the rest.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

// run asks the helper, which lives for this one question. It gets no environment
// and no files but its pipes.
func run(ctx context.Context, program string, r Request) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, judgeTimeout)
	defer cancel()
	data, err := json.Marshal(r)
	if err != nil {
		return Verdict{}, fmt.Errorf("ask edged-verify: %w", err)
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.WaitDelay = time.Second
	out, says := &bounded{limit: maxVerdict}, &bounded{limit: 1 << 10}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), out, says
	if err := cmd.Run(); err != nil {
		if text := bytes.TrimSpace(says.Bytes()); len(text) > 0 {
			return Verdict{}, fmt.Errorf("edged-verify: %w: %s", err, text)
		}
		return Verdict{}, fmt.Errorf("edged-verify: %w", err)
	}
	var v Verdict
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		return Verdict{}, fmt.Errorf("edged-verify answers: %w", err)
	}
	return v, nil
}
