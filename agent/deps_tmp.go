package agent
import (
 _ "google.golang.org/grpc"
 _ "github.com/prometheus/client_golang/prometheus/promhttp"
 _ "pgregory.net/rapid"
 _ "go.uber.org/goleak"
 _ "golang.org/x/sync/errgroup"
 _ "golang.org/x/crypto/x509roots/fallback"
)
