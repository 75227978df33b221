package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"unicode/utf8"

	"filippo.io/age"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"

	v2 "github.com/conductorone/baton-sdk/pb/c1/connector/v2"
	"github.com/conductorone/baton-sdk/pkg/crypto"
	"github.com/conductorone/baton-sdk/pkg/crypto/providers"
	"github.com/conductorone/baton-sdk/pkg/crypto/providers/jwk"
)

// workshop is our code, run by the producer: one question a line, one answer a line.
type workshop struct {
	command *exec.Cmd
	ask     io.WriteCloser
	answers *bufio.Reader
	fault   string
}

// The members of a question and of an answer that its kind needs; messages are in their wire form.
type question struct {
	Do      string   `json:"do"`
	Configs [][]byte `json:"configs,omitempty"`
	Plain   []byte   `json:"plain,omitempty"`
	Key     int      `json:"key"`
	Secret  string   `json:"secret,omitempty"`
	Count   int      `json:"count"`
}

type answer struct {
	Error    string   `json:"error"`
	Messages [][]byte `json:"messages"`
	Texts    []string `json:"texts"`
}

func (r *run) openWorkshop(ctx context.Context) (*workshop, func(), error) {
	command := exec.CommandContext(ctx, r.producer, "crypto")
	command.Stderr = os.Stderr
	ask, err := command.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	answers, err := command.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := command.Start(); err != nil {
		return nil, nil, err
	}
	w := &workshop{command: command, ask: ask, answers: bufio.NewReader(answers), fault: r.fault}
	return w, func() {
		ask.Close()
		command.Wait()
	}, nil
}

// do asks one question; refused tells an answer that is an error from a failure of the workshop.
func (w *workshop) do(q question) (a answer, refused bool, err error) {
	line, err := json.Marshal(q)
	if err != nil {
		return a, false, err
	}
	if _, err := w.ask.Write(append(line, '\n')); err != nil {
		return a, false, fmt.Errorf("producer crypto: %w", err)
	}
	text, err := w.answers.ReadBytes('\n')
	if err != nil {
		return a, false, fmt.Errorf("producer crypto: %w", err)
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, false, err
	}
	return a, a.Error != "", nil
}

func wire[M proto.Message](messages []M) ([][]byte, error) {
	var all [][]byte
	for _, each := range messages {
		bytes, err := proto.Marshal(each)
		if err != nil {
			return nil, err
		}
		all = append(all, bytes)
	}
	return all, nil
}

// seal lets our code encrypt a secret to every config. Faults are done to the answer.
func (w *workshop) seal(plain *v2.PlaintextData, configs ...*v2.EncryptionConfig) (sealed []*v2.EncryptedData, refusal string, err error) {
	q := question{Do: "seal"}
	if q.Configs, err = wire(configs); err != nil {
		return nil, "", err
	}
	if q.Plain, err = proto.Marshal(plain); err != nil {
		return nil, "", err
	}
	a, refused, err := w.do(q)
	if err != nil || refused {
		return nil, a.Error, err
	}
	for _, each := range a.Messages {
		data := &v2.EncryptedData{}
		if err := proto.Unmarshal(each, data); err != nil {
			return nil, "", err
		}
		switch w.fault {
		case "sealed-byte":
			flipped := data.GetEncryptedBytes()
			middle := len(flipped) / 2
			if flipped[middle] == 'A' {
				flipped[middle] = 'B'
			} else {
				flipped[middle] = 'A'
			}
			data.SetEncryptedBytes(flipped)
		case "key-id":
			data.SetKeyIds([]string{strings.Repeat("0", 64)})
		}
		sealed = append(sealed, data)
	}
	return sealed, "", nil
}

// recipient is a key of ConductorOne's with the way in which the SDK, or age itself, decrypts with it.
type recipient struct {
	name   string
	config *v2.EncryptionConfig
	open   func(context.Context, *v2.EncryptedData) (*v2.PlaintextData, error)
}

func jwkConfig(provider string, key any) (*v2.EncryptionConfig, error) {
	text, err := json.Marshal(&jose.JSONWebKey{Key: key})
	if err != nil {
		return nil, err
	}
	return v2.EncryptionConfig_builder{
		Provider:           provider,
		JwkPublicKeyConfig: v2.EncryptionConfig_JWKPublicKeyConfig_builder{PubKey: text}.Build(),
	}.Build(), nil
}

func ageConfig(provider, text string) *v2.EncryptionConfig {
	return v2.EncryptionConfig_builder{
		Provider:           provider,
		AgeRecipientConfig: v2.EncryptionConfig_AgeRecipientConfig_builder{Recipient: text}.Build(),
	}.Build()
}

func recipients(quick bool) ([]recipient, error) {
	var all []recipient
	withKey := func(name, provider string, public, private any) error {
		config, err := jwkConfig(provider, public)
		if err != nil {
			return err
		}
		all = append(all, recipient{name, config, func(ctx context.Context, data *v2.EncryptedData) (*v2.PlaintextData, error) {
			opener, err := providers.GetDecryptionProviderForConfig(ctx, &providers.DecryptionConfig{Provider: data.GetProvider()})
			if err != nil {
				return nil, err
			}
			return opener.Decrypt(ctx, data, &jose.JSONWebKey{Key: private})
		}})
		return nil
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	for _, provider := range []string{jwk.EncryptionProviderJwk, "", " Baton/JWK/v1", jwk.EncryptionProviderJwkPrivate} {
		if err := withKey("Ed25519 by "+provider, provider, public, private); err != nil {
			return nil, err
		}
	}
	if err := withKey("Ed25519 named by its private key", "", private, private); err != nil {
		return nil, err
	}
	sizes := []int{2048, 3072, 4096}
	if quick {
		sizes = sizes[:1]
	}
	for _, bits := range sizes {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		if err := withKey(fmt.Sprintf("RSA %d", bits), "", key.Public(), key); err != nil {
			return nil, err
		}
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			return nil, err
		}
		if err := withKey(curve.Params().Name, "", key.Public(), key); err != nil {
			return nil, err
		}
	}
	withAge := func(name, provider, text string, identity age.Identity) {
		all = append(all, recipient{name, ageConfig(provider, text), func(_ context.Context, data *v2.EncryptedData) (*v2.PlaintextData, error) {
			reader, err := age.Decrypt(bytes.NewReader(data.GetEncryptedBytes()), identity)
			if err != nil {
				return nil, err
			}
			plain, err := io.ReadAll(reader)
			return v2.PlaintextData_builder{Name: data.GetName(), Description: data.GetDescription(), Schema: data.GetSchema(), Bytes: plain}.Build(), err
		}})
	}
	for _, provider := range []string{"baton/age/v1", "", "BATON/age/V1 "} {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, err
		}
		withAge("age X25519 by "+provider, provider, identity.Recipient().String(), identity)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, err
	}
	withAge("age hybrid", "", hybrid.Recipient().String(), hybrid)
	return all, nil
}

func secretOf(length int) *v2.PlaintextData {
	random := make([]byte, length)
	rand.Read(random)
	plain := []byte(base64.StdEncoding.EncodeToString(random))[:length]
	return v2.PlaintextData_builder{Name: "password", Description: "le premier mot de passe", Schema: "text/plain", Bytes: plain}.Build()
}

func encryption(ctx context.Context, r *run) {
	w, stop, err := r.openWorkshop(ctx)
	if err != nil {
		r.check("encryption", func() (string, error) { return "", err })
		return
	}
	defer stop()
	r.check("encryption: the SDK opens what ours sealed", func() (string, error) {
		return w.ourSecrets(ctx, r.quick)
	})
	r.check("encryption: ours opens what the SDK sealed", func() (string, error) {
		return w.theirSecrets(ctx)
	})
	r.check("encryption: passwords sent to the connector", func() (string, error) {
		return w.sentPasswords(ctx)
	})
	r.check("encryption: keys are refused alike", func() (string, error) {
		return w.refusedKeys(ctx)
	})
	r.check("encryption: generated passwords", func() (string, error) {
		return w.generated(r.quick)
	})
}

// ourSecrets seals secrets of several lengths to all keys at once, as one task does.
func (w *workshop) ourSecrets(ctx context.Context, quick bool) (string, error) {
	all, err := recipients(quick)
	if err != nil {
		return "", err
	}
	var configs []*v2.EncryptionConfig
	for _, each := range all {
		configs = append(configs, each.config)
	}
	if err := crypto.ValidateEncryptionConfigs(configs); err != nil {
		return "", err
	}
	wrong := &problems{}
	lengths := []int{0, 1, 24, 65535, 65536, 200_000}
	opened, unopened := 0, 0
	for _, length := range lengths {
		plain := secretOf(length)
		sealed, refusal, err := w.seal(plain, configs...)
		if err != nil {
			return "", err
		}
		if refusal != "" || len(sealed) != len(all) {
			return "", fmt.Errorf("%d entries for %d keys: %s", len(sealed), len(all), refusal)
		}
		for number, data := range sealed {
			name := all[number].name
			if err := data.ValidateAll(); err != nil {
				wrong.add("%s: %v", name, err)
			}
			// What the SDK makes of the same, but for the random part.
			provider, err := providers.GetEncryptorForConfig(ctx, configs[number])
			if err != nil {
				return "", err
			}
			want, err := provider.Encrypt(ctx, configs[number], plain)
			if err != nil {
				return "", err
			}
			for _, field := range []struct{ what, ours, theirs string }{
				{"provider", data.GetProvider(), want.GetProvider()},
				{"key id", data.GetKeyId(), want.GetKeyId()},
				{"key ids", strings.Join(data.GetKeyIds(), " "), strings.Join(want.GetKeyIds(), " ")},
				{"name", data.GetName(), want.GetName()},
				{"description", data.GetDescription(), want.GetDescription()},
				{"schema", data.GetSchema(), want.GetSchema()},
			} {
				if field.ours != field.theirs {
					wrong.add("%s: %s %q, the SDK's is %q", name, field.what, field.ours, field.theirs)
				}
			}
			got, err := all[number].open(ctx, data)
			switch {
			case err != nil:
				// go-jose opens no empty JWE, not even its own.
				if _, same := all[number].open(ctx, want); same == nil {
					wrong.add("%s: %d bytes do not open: %v", name, length, err)
				} else {
					unopened++
				}
			case !proto.Equal(got, plain):
				wrong.add("%s: another plaintext of %d bytes", name, len(got.GetBytes()))
			default:
				opened++
			}
		}
	}
	return fmt.Sprintf("%d keys, %d lengths, %d secrets opened, %d empty ones that the SDK cannot open from itself either", len(all), len(lengths), opened, unopened), wrong.err()
}

// theirSecrets gives the SDK the keys that our side made up.
func (w *workshop) theirSecrets(ctx context.Context) (string, error) {
	a, refused, err := w.do(question{Do: "keys"})
	if err != nil || refused {
		return "", fmt.Errorf("%s %w", a.Error, err)
	}
	wrong := &problems{}
	var configs []*v2.EncryptionConfig
	for _, each := range a.Messages {
		config := &v2.EncryptionConfig{}
		if err := proto.Unmarshal(each, config); err != nil {
			return "", err
		}
		if err := config.ValidateAll(); err != nil {
			wrong.add("config: %v", err)
		}
		configs = append(configs, config)
	}
	if err := crypto.ValidateEncryptionConfigs(configs); err != nil {
		return "", err
	}
	opened := 0
	for number, config := range configs {
		for _, length := range []int{0, 1, 24, 65536} {
			plain := secretOf(length)
			manager, err := crypto.NewEncryptionManager(nil, []*v2.EncryptionConfig{config})
			if err != nil {
				return "", err
			}
			sealed, err := manager.Encrypt(ctx, plain)
			if err != nil {
				return "", err
			}
			messages, err := wire(sealed)
			if err != nil {
				return "", err
			}
			if id := sealed[0].GetKeyIds()[0]; id != config.GetKeyId() {
				wrong.add("key %d has id %s, the SDK's is %s", number, config.GetKeyId(), id)
			}
			a, refused, err := w.do(question{Do: "reveal", Key: number, Configs: messages})
			switch {
			case err != nil:
				return "", err
			case refused:
				wrong.add("key %d: %d bytes do not open: %s", number, length, a.Error)
			case !bytes.Equal(a.Messages[0], plain.GetBytes()):
				wrong.add("key %d: another plaintext", number)
			default:
				opened++
			}
		}
	}
	return fmt.Sprintf("%d keys, %d secrets opened", len(configs), opened), wrong.err()
}

// sentPasswords opens passwords that were encrypted to a client secret, by the SDK's code and by ours.
func (w *workshop) sentPasswords(ctx context.Context) (string, error) {
	wrong := &problems{}
	opened, refusedBoth := 0, 0
	for _, kid := range []string{"", "a key id"} {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(&jose.JSONWebKey{Key: private, KeyID: kid})
		if err != nil {
			return "", err
		}
		secret := "secret-token:conductorone.com:v1:" + base64.RawURLEncoding.EncodeToString(text)
		key, err := crypto.ParseClientSecret([]byte(secret), true)
		if err != nil {
			return "", err
		}
		config, err := jwkConfig(jwk.EncryptionProviderJwk, private.Public())
		if err != nil {
			return "", err
		}
		entry := func(password string, ids ...string) *v2.EncryptedData {
			data, err := (&jwk.JWKEncryptionProvider{}).Encrypt(ctx, config, v2.PlaintextData_builder{Name: "password", Bytes: []byte(password)}.Build())
			if err != nil {
				panic(err)
			}
			data.SetKeyIds(ids)
			return data
		}
		damaged := entry("x", key.KeyID)
		damaged.SetEncryptedBytes(damaged.GetEncryptedBytes()[4:])
		for _, each := range []struct {
			what    string
			entries []*v2.EncryptedData
		}{
			{"one entry", []*v2.EncryptedData{entry("SECRETSEED-1", key.KeyID)}},
			{"text beyond ASCII", []*v2.EncryptedData{entry("SECRETSEED-pässwörd-密码", key.KeyID)}},
			{"a later key id", []*v2.EncryptedData{entry("SECRETSEED-2", "another", key.KeyID)}},
			{"a later entry", []*v2.EncryptedData{entry("not this"), entry("nor this", "another"), entry("SECRETSEED-3", key.KeyID)}},
			{"two entries", []*v2.EncryptedData{entry("SECRETSEED-4", key.KeyID), entry("SECRETSEED-5", key.KeyID)}},
			{"no entry for the key", []*v2.EncryptedData{entry("x", "another")}},
			{"no key ids", []*v2.EncryptedData{entry("x")}},
			{"a damaged entry", []*v2.EncryptedData{damaged}},
		} {
			options := v2.CredentialOptions_builder{EncryptedPassword: v2.CredentialOptions_EncryptedPassword_builder{EncryptedPasswords: each.entries}.Build()}.Build()
			want, failure := crypto.ConvertCredentialOptions(ctx, key, options, nil)
			q := question{Do: "open", Secret: secret}
			if q.Configs, err = wire(each.entries); err != nil {
				return "", err
			}
			a, refused, err := w.do(q)
			switch {
			case err != nil:
				return "", err
			case refused != (failure != nil):
				wrong.add("%s: ours %q, the SDK %v", each.what, a.Error, failure)
			case refused:
				refusedBoth++
			case a.Texts[0] != want.GetPlaintextPassword().GetPlaintextPassword():
				wrong.add("%s: another password", each.what)
			default:
				opened++
			}
		}
	}
	return fmt.Sprintf("%d opened, %d refused by both", opened, refusedBoth), wrong.err()
}

// Keys that ours refuses and the SDK takes, each with the reason.
var stricterKeys = map[string]string{
	"RSA 8704": "aws-lc works with keys of up to 8,192 bits",
}

// refusedKeys compares what counts as a key.
func (w *workshop) refusedKeys(ctx context.Context) (string, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		return "", err
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	ed, err := jwkConfig("", public)
	if err != nil {
		return "", err
	}
	text := func(provider, json string) *v2.EncryptionConfig {
		return v2.EncryptionConfig_builder{
			Provider:           provider,
			JwkPublicKeyConfig: v2.EncryptionConfig_JWKPublicKeyConfig_builder{PubKey: []byte(json)}.Build(),
		}.Build()
	}
	number := func(bytes int, last byte) string {
		n := filled(bytes, 0xff)
		n[bytes-1] = last
		return base64.RawURLEncoding.EncodeToString(n)
	}
	named := func(config *v2.EncryptionConfig, provider string) *v2.EncryptionConfig {
		config = proto.Clone(config).(*v2.EncryptionConfig)
		config.SetProvider(provider)
		return config
	}
	good, pq := identity.Recipient().String(), hybrid.Recipient().String()
	zero := base64.RawURLEncoding.EncodeToString(filled(32, 0))
	cases := []struct {
		what   string
		config *v2.EncryptionConfig
	}{
		{"Ed25519", ed},
		{"nothing", &v2.EncryptionConfig{}},
		{"a provider and no key", v2.EncryptionConfig_builder{Provider: jwk.EncryptionProviderJwk}.Build()},
		{"an unknown provider", named(ed, "baton/other/v1")},
		{"the provider of the other key", named(ed, "baton/age/v1")},
		{"the other way round", ageConfig(jwk.EncryptionProviderJwk, good)},
		{"a private age provider", ageConfig("baton/age/v1/private", good)},
		{"empty JWK", text("", "")},
		{"JWK of nothing", text("", "{}")},
		{"JWK array", text("", "[]")},
		{"JWK text", text("", `"x"`)},
		{"JWK cut off", text("", `{"kty":"OKP"`)},
		{"symmetric JWK", text("", `{"kty":"oct","k":"c2VjcmV0"}`)},
		{"X25519 JWK", text("", `{"kty":"OKP","crv":"X25519","x":"`+zero+`"}`)},
		{"Ed25519 too short", text("", `{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`)},
		{"Ed25519 no point", text("", `{"kty":"OKP","crv":"Ed25519","x":"`+base64.RawURLEncoding.EncodeToString(filled(32, 2))+`"}`)},
		{"Ed25519 without x", text("", `{"kty":"OKP","crv":"Ed25519"}`)},
		{"EC off the curve", text("", `{"kty":"EC","crv":"P-256","x":"`+zero+`","y":"`+zero+`"}`)},
		{"EC of another length", text("", `{"kty":"EC","crv":"P-384","x":"`+zero+`","y":"`+zero+`"}`)},
		{"EC of another curve", text("", `{"kty":"EC","crv":"P-224","x":"`+zero+`","y":"`+zero+`"}`)},
		{"RSA 1024", text("", `{"kty":"RSA","n":"`+number(128, 0xff)+`","e":"AQAB"}`)},
		{"RSA 8704", text("", `{"kty":"RSA","n":"`+number(1088, 0xff)+`","e":"AQAB"}`)},
		{"RSA of an even number", text("", `{"kty":"RSA","n":"`+number(256, 0xfe)+`","e":"AQAB"}`)},
		{"RSA with exponent 1", text("", `{"kty":"RSA","n":"`+number(256, 0xff)+`","e":"AQ"}`)},
		{"RSA without exponent", text("", `{"kty":"RSA","n":"`+number(256, 0xff)+`"}`)},
		{"JWK with padding", text("", `{"kty":"OKP","crv":"Ed25519","x":"`+base64.URLEncoding.EncodeToString(public)+`"}`)},
		{"age", ageConfig("", good)},
		{"age hybrid", ageConfig("", pq)},
		{"age empty", ageConfig("", "")},
		{"age with a space", ageConfig("", " "+good)},
		{"age with a line break", ageConfig("", good+"\n")},
		{"age twice", ageConfig("", good+"\n"+good)},
		{"age comment", ageConfig("", "# "+good)},
		{"age in upper case", ageConfig("", strings.ToUpper(good))},
		{"age in mixed case", ageConfig("", "age1"+strings.ToUpper(good[4:]))},
		{"age cut off", ageConfig("", good[:len(good)-1])},
		{"age hybrid cut off", ageConfig("", pq[:len(pq)-1])},
		{"age private", ageConfig("", identity.String())},
		{"age hybrid private", ageConfig("", hybrid.String())},
		{"age plugin", ageConfig("", "age1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt")},
		{"SSH", ageConfig("", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN")},
	}
	wrong := &problems{}
	taken, refused, stricter := 0, 0, 0
	for _, each := range cases {
		theirs := crypto.ValidateEncryptionConfigs([]*v2.EncryptionConfig{each.config})
		if theirs == nil {
			manager, err := crypto.NewEncryptionManager(nil, []*v2.EncryptionConfig{each.config})
			if err != nil {
				return "", err
			}
			_, theirs = manager.Encrypt(ctx, secretOf(8))
		}
		_, ours, err := w.seal(secretOf(8), each.config)
		if err != nil {
			return "", err
		}
		switch {
		case theirs == nil && ours == "":
			taken++
		case theirs != nil && ours != "":
			refused++
		case theirs == nil && stricterKeys[each.what] != "":
			stricter++
		default:
			wrong.add("%s: ours %q, the SDK %v", each.what, ours, theirs)
		}
	}
	return fmt.Sprintf("%d taken by both, %d refused by both, %d refused by ours alone with a reason", taken, refused, stricter), wrong.err()
}

func filled(length int, value byte) []byte {
	return bytes.Repeat([]byte{value}, length)
}

// generated asks for passwords with made-up options, good and bad ones.
func (w *workshop) generated(quick bool) (string, error) {
	const (
		lower   = "abcdefghijklmnopqrstuvwxyz"
		upper   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		digits  = "0123456789"
		symbols = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
	)
	sets := []string{lower, upper, digits, symbols, "abcXYZ", "!?", "01", "z"}
	random := mathrand.New(mathrand.NewPCG(5, 11))
	wrong := &problems{}
	rounds, made, refusedBoth := 400, 0, 0
	if quick {
		rounds = 40
	}
	for range rounds {
		options := v2.CredentialOptions_RandomPassword_builder{Length: random.Int64N(70)}.Build()
		var constraints []*v2.PasswordConstraint
		for range random.IntN(5) {
			constraints = append(constraints, v2.PasswordConstraint_builder{
				CharSet:  sets[random.IntN(len(sets))],
				MinCount: uint32(random.IntN(7)),
			}.Build())
		}
		options.SetConstraints(constraints)
		invalid := options.Validate()
		if invalid == nil {
			_, invalid = crypto.GenerateRandomPassword(v2.LocalCredentialOptions_RandomPassword_builder{Length: options.GetLength(), Constraints: constraints}.Build())
		}
		message, err := proto.Marshal(options)
		if err != nil {
			return "", err
		}
		const each = 5
		a, refused, err := w.do(question{Do: "passwords", Plain: message, Count: each})
		if err != nil {
			return "", err
		}
		if refused != (invalid != nil) {
			wrong.add("%v: ours %q, the SDK %v", options, a.Error, invalid)
			continue
		}
		if refused {
			refusedBoth++
			continue
		}
		if len(a.Texts) != each {
			wrong.add("%d passwords instead of %d", len(a.Texts), each)
		}
		seen := map[string]bool{}
		for _, password := range a.Texts {
			made++
			seen[password] = true
			count := func(set string) (n int) {
				for _, c := range password {
					if strings.ContainsRune(set, c) {
						n++
					}
				}
				return n
			}
			if utf8.RuneCountInString(password) != int(options.GetLength()) {
				wrong.add("%d characters instead of %d", utf8.RuneCountInString(password), options.GetLength())
			}
			if count(lower+upper+digits+symbols) != len(password) {
				wrong.add("a character of no set is in the password")
			}
			for _, constraint := range constraints {
				if count(constraint.GetCharSet()) < int(constraint.GetMinCount()) {
					wrong.add("%d of %q instead of %d", count(constraint.GetCharSet()), constraint.GetCharSet(), constraint.GetMinCount())
				}
			}
			if len(constraints) == 0 {
				for _, set := range []string{lower, upper, digits, symbols} {
					if count(set) == 0 {
						wrong.add("nothing of %q", set)
					}
				}
			}
		}
		free := 0
		for _, constraint := range constraints {
			free += int(constraint.GetMinCount())
		}
		if int(options.GetLength())-free >= 4 && len(seen) != each {
			wrong.add("%v: the same password twice", options)
		}
	}
	return fmt.Sprintf("%d passwords obey, %d of %d options refused by both", made, refusedBoth, rounds), wrong.err()
}
