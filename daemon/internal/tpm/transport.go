package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// devices are tried in this order: with the kernel's resource manager first.
var devices = []string{"/dev/tpmrm0", "/dev/tpm0"}

const (
	dialLimit    = 10 * time.Second
	commandLimit = 60 * time.Second // making an RSA key takes long
	headerSize   = 10               // tag, size, code
	maxResponse  = 4096
)

// CheckTCTI tells what is wrong with a text that says where the TPM is.
func CheckTCTI(tcti string) error {
	_, err := dialer(tcti)
	return err
}

var errTCTI = errors.New("must be \"device\", \"device:/path\", \"swtpm:path=/socket\" or \"swtpm:host=address,port=number\"")

// dialer reads a TCTI text.
func dialer(tcti string) (func() (transport.TPMCloser, error), error) {
	kind, rest, _ := strings.Cut(tcti, ":")
	switch {
	case kind == "device" && rest == "":
		return openDevice, nil
	case kind == "device" && filepath.IsAbs(rest):
		return func() (transport.TPMCloser, error) { return linuxtpm.Open(rest) }, nil
	case kind == "swtpm":
		return softwareDialer(rest)
	}
	return nil, errTCTI
}

func openDevice() (transport.TPMCloser, error) {
	for _, path := range devices {
		c, err := linuxtpm.Open(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
	}
	return nil, fmt.Errorf("no TPM device: neither %s", strings.Join(devices, " nor "))
}

// softwareDialer reads the parameters of swtpm's sockets.
func softwareDialer(params string) (func() (transport.TPMCloser, error), error) {
	host, port, path := "127.0.0.1", "2321", ""
	for field := range strings.SplitSeq(params, ",") {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "host":
			host = value
		case "port":
			port = value
		case "path":
			path = value
		default:
			return nil, errTCTI
		}
	}
	network, address := "tcp", net.JoinHostPort(host, port)
	if path != "" {
		network, address = "unix", path
	}
	return func() (transport.TPMCloser, error) {
		conn, err := net.DialTimeout(network, address, dialLimit)
		if err != nil {
			return nil, err
		}
		return &socket{conn}, nil
	}, nil
}

// socket carries commands over a stream, where an answer may come in pieces.
type socket struct{ net.Conn }

// attempts bounds how often a command is sent that the TPM has asked for again.
const attempts = 10

// Send sends a command and returns its answer. A TPM may want a command a second time,
// which the kernel does for those that it drives.
func (s *socket) Send(command []byte) (answer []byte, err error) {
	for range attempts {
		answer, err = s.send(command)
		if err != nil || binary.BigEndian.Uint32(answer[6:]) != uint32(tpm2.TPMRCRetry) {
			break
		}
	}
	return answer, err
}

func (s *socket) send(command []byte) ([]byte, error) {
	if err := s.SetDeadline(time.Now().Add(commandLimit)); err != nil {
		return nil, err
	}
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(s, header); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("answer has a size of %d bytes", size)
	}
	out := append(make([]byte, 0, size), header...)[:size]
	if _, err := io.ReadFull(s, out[headerSize:]); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return out, nil
}
