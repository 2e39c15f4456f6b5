// Command peer is the SDS server that envoy-sds is compared with: the caches and the gRPC server of go-control-plane, with a
// CA in the process that gives every proxy a leaf of its own when it connects. It believes node ids, and is for
// benchmarks only.
//
// It prints its addresses as one line of JSON once it listens. `peer -rotate ca -control ADDRESS` has another one change
// its CA, and `-rotate leaves` has it issue all leaves anew.
package main

import (
	"context"
	cryptotls "crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

func main() {
	kind := flag.String("cache", "snapshot", "`snapshot`, or `mux`: trust bundles from one cache for all "+
		"(for SotW with a stream for each name)")
	caFile := flag.String("tls-ca-out", "", "where to write the CA of the TLS listener's certificate")
	rotate := flag.String("rotate", "", "tell the peer at -control to change its `ca` or `leaves`, and end")
	control := flag.String("control", "127.0.0.1:0", "address for -rotate")
	flag.Parse()
	log.SetFlags(0)

	act := func() error { return run(*kind, *caFile, *control) }
	if *rotate != "" {
		act = func() error { return tell(*control, *rotate) }
	}
	if err := act(); err != nil {
		log.Fatalf("peer: %v", err)
	}
}

func run(kind, caFile, control string) error {
	if kind != "snapshot" && kind != "mux" {
		return fmt.Errorf("-cache is snapshot or mux, and not %q", kind)
	}
	m, err := newMesh(kind == "mux")
	if err != nil {
		return err
	}
	certificate, err := listenerCertificate(caFile)
	if err != nil {
		return err
	}
	config := &cryptotls.Config{Certificates: []cryptotls.Certificate{certificate}, MinVersion: cryptotls.VersionTLS13}

	xds := server.NewServer(context.Background(), m.cache(), m.callbacks())
	failed := make(chan error)
	addresses := map[string]string{}
	listen := func(name, address string, serve func(net.Listener) error) error {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		addresses[name] = listener.Addr().String()
		go func() { failed <- serve(listener) }()
		return nil
	}
	err = errors.Join(
		listen("plaintext", "127.0.0.1:0", newGRPC(xds).Serve),
		listen("tls", "127.0.0.1:0", newGRPC(xds, grpc.Creds(credentials.NewTLS(config))).Serve),
		listen("control", control, (&http.Server{Handler: controlOf(m)}).Serve),
	)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(addresses); err != nil {
		return err
	}
	return <-failed
}

// newGRPC has the options of the library's own example of a server.
func newGRPC(xds server.Server, options ...grpc.ServerOption) *grpc.Server {
	options = append(options,
		grpc.MaxConcurrentStreams(1_000_000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
	)
	s := grpc.NewServer(options...)
	secret.RegisterSecretDiscoveryServiceServer(s, xds)
	discovery.RegisterAggregatedDiscoveryServiceServer(s, xds)
	return s
}

func listenerCertificate(caFile string) (cryptotls.Certificate, error) {
	var none cryptotls.Certificate
	ca, err := newAuthority("CA of the peer's listener")
	if err != nil {
		return none, err
	}
	if caFile != "" {
		if err := os.WriteFile(caFile, ca.pem, 0o644); err != nil {
			return none, err
		}
	}
	names := &x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	chain, key, err := ca.issue(names)
	if err != nil {
		return none, err
	}
	return cryptotls.X509KeyPair(chain, key)
}

func controlOf(m *mesh) http.Handler {
	mux := http.NewServeMux()
	for name, act := range map[string]func() error{"ca": m.changeTrust, "leaves": m.reissue} {
		mux.HandleFunc("POST /rotate/"+name, func(w http.ResponseWriter, _ *http.Request) {
			if err := act(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	return mux
}

func tell(control, what string) error {
	answer, err := http.Post("http://"+control+"/rotate/"+what, "", nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	return nil
}
