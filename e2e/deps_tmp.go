package e2e
import (
 _ "github.com/google/go-containerregistry/pkg/registry"
 _ "github.com/alecthomas/kong"
 _ "golang.org/x/sync/errgroup"
)
