package up

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwt"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// The tokens that ResearchFlow's Local file asks for are good to whoever knows
// the keys that its policy knows: a RequestAuthentication may verify them too.
func TestMintedTokensVerify(t *testing.T) {
	const local, data = "../../examples/researchflow/local.yaml", "../../infrastructure/kubernetes/base/opa/data.json"
	text, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	set, problems := resource.Parse([]resource.File{{Name: local, Data: text}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	tokens, err := mint(set)
	if err != nil || len(tokens) != 3 {
		t.Fatalf("%d tokens, %v", len(tokens), err)
	}
	var known struct{ JWKS json.RawMessage }
	if text, err = os.ReadFile(data); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &known); err != nil {
		t.Fatal(err)
	}
	filter, err := jwt.New(&ir.JWT{Providers: []ir.JWTProvider{{Name: "origins-0", Issuer: "https://researchflow.example", Audiences: []string{"researchflow-api"}, Keys: string(known.JWKS)}}}, jwt.NewVerifier)
	if err != nil {
		t.Fatal(err)
	}
	for _, minted := range tokens {
		h := &header.Map{}
		h.Add("authorization", "Bearer "+minted.JWT)
		got, refused := filter.Check(&jwt.Request{Method: "GET", Fields: h, Time: time.Now()})
		if refused != nil || !got.Claim([]string{"roles"}, func(role string) bool { return role == minted.Role }) {
			t.Errorf("%s: %+v, %+v", minted.Role, got, refused)
		}
	}
}
