package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
)

// The names under which proxies ask for their certificate and for the CAs that they trust.
const (
	certificateName = "default"
	bundleName      = "ROOTCA"
)

// mesh is what a user of the library writes around its caches: who is there, and what they are to have.
type mesh struct {
	snapshots cache.SnapshotCache
	// With it, trust bundles come from here and are the same object for everybody; without, they are in each snapshot.
	shared *cache.LinearCache

	trust atomic.Pointer[trust]
	// Counts what is published, for versions.
	published atomic.Uint64

	mu      sync.Mutex
	proxies map[string]*proxy
	streams map[stream]*proxy
}

// trust is who signs, and whom proxies are to believe: that CA, and the one before it, whose leaves are still in use.
type trust struct {
	signer *authority
	bundle *tls.Secret
}

// stream is one of a protocol variant: the library counts them apart.
type stream struct {
	delta bool
	id    int64
}

type proxy struct {
	id string
	// How many streams are its own; under the mesh's lock.
	streams int

	// Held while its snapshot is made and set, so that an older one never follows a newer one.
	mu   sync.Mutex
	leaf *tls.Secret
	gone bool
}

func newMesh(sharedBundle bool) (*mesh, error) {
	m := &mesh{
		snapshots: cache.NewSnapshotCache(false, cache.IDHash{}, nil),
		proxies:   map[string]*proxy{},
		streams:   map[stream]*proxy{},
	}
	if sharedBundle {
		m.shared = cache.NewLinearCache(resource.SecretType)
	}
	return m, m.changeTrust()
}

// cache is what the library serves from.
func (m *mesh) cache() cache.Cache {
	if m.shared == nil {
		return m.snapshots
	}
	return &cache.MuxCache{
		Classify: func(request *cache.Request) string {
			if slices.Equal(request.GetResourceNames(), []string{bundleName}) {
				return "shared"
			}
			return "snapshots"
		},
		// An ACK on Delta names nothing that it could be told by.
		ClassifyDelta: func(*cache.DeltaRequest) string { return "snapshots" },
		Caches:        map[string]cache.Cache{"shared": m.shared, "snapshots": m.snapshots},
	}
}

// callbacks issue to a proxy when its first request comes, and forget it with its last stream.
func (m *mesh) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamRequestFunc: func(id int64, request *discovery.DiscoveryRequest) error {
			return m.arrived(stream{id: id}, request.GetNode().GetId())
		},
		StreamDeltaRequestFunc: func(id int64, request *discovery.DeltaDiscoveryRequest) error {
			return m.arrived(stream{delta: true, id: id}, request.GetNode().GetId())
		},
		StreamClosedFunc:      func(id int64, _ *core.Node) { m.left(stream{id: id}) },
		DeltaStreamClosedFunc: func(id int64, _ *core.Node) { m.left(stream{delta: true, id: id}) },
	}
}

func (m *mesh) arrived(on stream, id string) error {
	m.mu.Lock()
	if m.streams[on] != nil {
		m.mu.Unlock()
		return nil
	}
	if id == "" {
		m.mu.Unlock()
		return errors.New("the first request has no node id")
	}
	one := m.proxies[id]
	if one == nil {
		one = &proxy{id: id}
		m.proxies[id] = one
	}
	one.streams++
	m.streams[on] = one
	m.mu.Unlock()
	return m.publish(one, false)
}

func (m *mesh) left(on stream) {
	m.mu.Lock()
	one := m.streams[on]
	delete(m.streams, on)
	if one != nil {
		one.streams--
		if one.streams > 0 {
			one = nil
		} else {
			delete(m.proxies, one.id)
		}
	}
	m.mu.Unlock()
	if one != nil {
		one.mu.Lock()
		defer one.mu.Unlock()
		one.gone = true
		m.snapshots.ClearSnapshot(one.id)
	}
}

// publish sets a proxy's snapshot, with a new leaf if it has none or is to have one. What it has already is left alone
// if it only has one more stream.
func (m *mesh) publish(one *proxy, anew bool) error {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.gone || (one.leaf != nil && !anew) {
		return nil
	}
	leaf, err := issue(m.trust.Load().signer, one.id)
	if err != nil {
		return err
	}
	one.leaf = leaf
	return m.set(one)
}

// republish sets a proxy's snapshot as it is, with whom it is to trust now.
func (m *mesh) republish(one *proxy) error {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.gone || one.leaf == nil {
		return nil
	}
	return m.set(one)
}

func (m *mesh) set(one *proxy) error {
	secrets := []types.Resource{one.leaf}
	if m.shared == nil {
		secrets = append(secrets, m.trust.Load().bundle)
	}
	version := strconv.FormatUint(m.published.Add(1), 10)
	snapshot, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{resource.SecretType: secrets})
	if err != nil {
		return err
	}
	return m.snapshots.SetSnapshot(context.Background(), one.id, snapshot)
}

// changeTrust makes a new CA, which signs from now on and is trusted beside the one before.
func (m *mesh) changeTrust() error {
	signer, err := newAuthority(fmt.Sprintf("peer CA %d", m.published.Add(1)))
	if err != nil {
		return err
	}
	next := &trust{signer: signer}
	trusted := signer.pem
	if before := m.trust.Load(); before != nil {
		trusted = slices.Concat(before.signer.pem, trusted)
	}
	next.bundle = &tls.Secret{Name: bundleName, Type: &tls.Secret_ValidationContext{
		ValidationContext: &tls.CertificateValidationContext{TrustedCa: inline(trusted)},
	}}
	m.trust.Store(next)
	if m.shared != nil {
		return m.shared.UpdateResource(bundleName, next.bundle)
	}
	return m.forEach(m.republish)
}

// reissue gives every proxy a new leaf.
func (m *mesh) reissue() error {
	return m.forEach(func(one *proxy) error { return m.publish(one, true) })
}

// forEach calls act for every proxy, on as many goroutines as there are cores.
func (m *mesh) forEach(act func(*proxy) error) error {
	m.mu.Lock()
	queue := make(chan *proxy, len(m.proxies))
	for _, one := range m.proxies {
		queue <- one
	}
	m.mu.Unlock()
	close(queue)
	failed := make([]error, runtime.GOMAXPROCS(0))
	var workers sync.WaitGroup
	for worker := range failed {
		workers.Go(func() {
			for one := range queue {
				failed[worker] = errors.Join(failed[worker], act(one))
			}
		})
	}
	workers.Wait()
	return errors.Join(failed...)
}

// issue makes the leaf of the proxy with this node id, which is NAME or MESH.NAME.
func issue(signer *authority, id string) (*tls.Secret, error) {
	domain, name, found := strings.Cut(id, ".")
	if !found {
		domain, name = "default", id
	}
	spiffeID := &url.URL{Scheme: "spiffe", Host: domain, Path: "/" + name}
	chain, key, err := signer.issue(&x509.Certificate{URIs: []*url.URL{spiffeID}})
	if err != nil {
		return nil, fmt.Errorf("the leaf of %s: %w", id, err)
	}
	return &tls.Secret{Name: certificateName, Type: &tls.Secret_TlsCertificate{
		TlsCertificate: &tls.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(key)},
	}}, nil
}

func inline(content []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: content}}
}
