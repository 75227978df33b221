package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/pquerna/xjwt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	baton "github.com/conductorone/baton-sdk/pb/c1/connectorapi/baton/v1"
	"github.com/conductorone/baton-sdk/pkg/crypto"
)

// door is the TLS listener, the token endpoint and the tokens that it gave out.
type door struct {
	clientID, secret, authority, host string
	key                               jose.JSONWebKey
	server                            *http.Server

	mu       sync.Mutex
	given    map[string]time.Time
	nonces   map[string]bool
	problems []string
}

func (d *door) complain(format string, arguments ...any) error {
	err := fmt.Errorf(format, arguments...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems = append(d.problems, err.Error())
	return err
}

func (d *door) wrong() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.problems)
}

func (d *door) tokens() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.given)
}

func (d *door) close() { d.server.Close() }

// open serves the session on a free port of the loopback interface.
func open(folder string, s *session, named bool) (*door, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &door{host: listener.Addr().String(), given: map[string]time.Time{}, nonces: map[string]bool{}}
	d.clientID = "conformance-client@" + d.host + "/valid"
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	d.key = jose.JSONWebKey{Key: private}
	if named {
		d.key.KeyID = "conformance-key"
	}
	jwk, err := d.key.MarshalJSON()
	if err != nil {
		return nil, err
	}
	d.secret = "secret-token:conductorone.com:v1:" + base64.RawURLEncoding.EncodeToString(jwk)
	if _, err := crypto.ParseClientSecret([]byte(d.secret), false); err != nil {
		return nil, fmt.Errorf("the SDK refuses our own client secret: %w", err)
	}
	certificate, authority, err := identity()
	if err != nil {
		return nil, err
	}
	d.authority = authority
	calls := grpc.NewServer(grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.streamed))
	baton.RegisterBatonServiceServer(calls, s)
	d.server = &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			switch {
			case strings.HasPrefix(request.Header.Get("Content-Type"), "application/grpc"):
				calls.ServeHTTP(w, request)
			case request.URL.Path == "/auth/v1/token":
				d.token(w, request)
			default:
				d.complain("a request to %s %s", request.Method, request.URL.Path)
				http.NotFound(w, request)
			}
		}),
	}
	go d.server.ServeTLS(listener, "", "")
	return d, nil
}

// identity makes an authority and a certificate for the loopback address.
func identity() (tls.Certificate, string, error) {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "conformance"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, leafKey.Public(), authorityKey)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authorityDER})), nil
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

var nonceForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// token judges one request for a token.
func (d *door) token(w http.ResponseWriter, request *http.Request) {
	if err := d.assertion(request); err != nil {
		d.complain("token request: %v", err)
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		return
	}
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	token := "SECRETSEED-" + hex.EncodeToString(raw)
	d.mu.Lock()
	d.given[token] = time.Now()
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "bearer", "expires_in": 3600})
}

func (d *door) assertion(request *http.Request) error {
	if request.Method != http.MethodPost || request.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return fmt.Errorf("%s with content type %q", request.Method, request.Header.Get("Content-Type"))
	}
	for _, header := range []string{"Authorization", "DPoP"} {
		if request.Header.Get(header) != "" {
			return fmt.Errorf("it has a header %s", header)
		}
	}
	if err := request.ParseForm(); err != nil {
		return err
	}
	want := url.Values{"client_id": {d.clientID}, "grant_type": {"client_credentials"}, "client_assertion_type": {assertionType}}
	for name, values := range request.PostForm {
		if name != "client_assertion" && !slices.Equal(values, want[name]) {
			return fmt.Errorf("field %s is %q", name, values)
		}
	}
	if len(request.PostForm) != 4 || len(request.PostForm["client_assertion"]) != 1 {
		return fmt.Errorf("%d fields", len(request.PostForm))
	}
	assertion := request.PostForm.Get("client_assertion")
	public := d.key.Public()
	name, _, err := net.SplitHostPort(d.host)
	if err != nil {
		return err
	}
	claims, err := xjwt.Verify([]byte(assertion), xjwt.VerifyConfig{
		ExpectedIssuer: d.clientID, ExpectedSubject: d.clientID, ExpectedAudience: name,
		MaxExpirationFromNow:       5 * time.Minute,
		KeySet:                     &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}},
		ExpectSSignatureAlgorithms: []jose.SignatureAlgorithm{jose.EdDSA},
	})
	if err != nil {
		return err
	}
	for _, claim := range []string{"iss", "sub", "exp", "iat", "nbf"} {
		if _, there := claims[claim]; !there {
			return fmt.Errorf("no claim %s", claim)
		}
	}
	if audience, ok := claims["aud"].(string); !ok || audience != name {
		return fmt.Errorf("aud is %v", claims["aud"])
	}
	if len(claims) != 6 {
		return fmt.Errorf("claims are %v", claims)
	}
	at := func(claim string) float64 { number, _ := claims[claim].(float64); return number }
	if at("exp")-at("iat") != 120 || at("iat")-at("nbf") != 120 {
		return fmt.Errorf("nbf %.0f, iat %.0f, exp %.0f", at("nbf"), at("iat"), at("exp"))
	}
	signed, err := jose.ParseSignedCompact(assertion, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return err
	}
	header := signed.Signatures[0].Protected
	if header.KeyID != d.key.KeyID {
		return fmt.Errorf("kid is %q, the key's is %q", header.KeyID, d.key.KeyID)
	}
	if _, typed := header.ExtraHeaders[jose.HeaderType]; typed {
		return fmt.Errorf("it has a typ")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !nonceForm.MatchString(header.Nonce) || d.nonces[header.Nonce] {
		return fmt.Errorf("nonce %q is malformed or used twice", header.Nonce)
	}
	d.nonces[header.Nonce] = true
	return nil
}

// What a call may carry beside the one credential.
var metadataNames = []string{":authority", "authorization", "content-type", "grpc-accept-encoding", "grpc-timeout", "te", "user-agent"}

// admitted checks the metadata of a call.
func (d *door) admitted(ctx context.Context) error {
	carried, _ := metadata.FromIncomingContext(ctx)
	for name := range carried {
		if !slices.Contains(metadataNames, name) {
			return fmt.Errorf("metadata %s", name)
		}
	}
	if got := carried.Get(":authority"); len(got) != 1 || got[0] != d.host {
		return fmt.Errorf("authority %q, wanted %q", got, d.host)
	}
	if agent := carried.Get("user-agent"); len(agent) != 1 || !strings.HasPrefix(agent[0], "conformance-client ") {
		return fmt.Errorf("user-agent %q does not begin with the client's name", agent)
	}
	credentials := carried.Get("authorization")
	if len(credentials) != 1 {
		return fmt.Errorf("%d credentials", len(credentials))
	}
	kind, token, _ := strings.Cut(credentials[0], " ")
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, given := d.given[token]; kind != "Bearer" || !given {
		return fmt.Errorf("a credential of kind %q that was not given out", kind)
	}
	return nil
}

// inspect wants the rules of the contract kept, in a message and in everything packed inside it, and no field that the
// contract does not have.
func inspect(m proto.Message) error {
	if rules, ok := m.(interface{ ValidateAll() error }); ok {
		if err := rules.ValidateAll(); err != nil {
			return err
		}
	}
	return walk(m.ProtoReflect(), string(m.ProtoReflect().Descriptor().Name()))
}

func walk(m protoreflect.Message, path string) error {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		return fmt.Errorf("%s has %d bytes of unknown fields", path, len(unknown))
	}
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			return fmt.Errorf("%s packs %q: %w", path, packed.GetTypeUrl(), err)
		}
		return inspect(inner)
	}
	var problem error
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		inner := path + "." + string(field.Name())
		switch {
		case field.IsMap():
			if field.MapValue().Message() == nil {
				return true
			}
			value.Map().Range(func(_ protoreflect.MapKey, each protoreflect.Value) bool {
				problem = walk(each.Message(), inner)
				return problem == nil
			})
		case field.Message() == nil:
			if field.Enum() != nil && !field.IsList() && field.Enum().Values().ByNumber(value.Enum()) == nil {
				problem = fmt.Errorf("%s has the unknown value %d", inner, value.Enum())
			}
		case field.IsList():
			for i := range value.List().Len() {
				if problem = walk(value.List().Get(i).Message(), inner); problem != nil {
					break
				}
			}
		default:
			problem = walk(value.Message(), inner)
		}
		return problem == nil
	})
	return problem
}
