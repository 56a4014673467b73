package tokenreview

import (
	"errors"
	"slices"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/typed/authentication/v1/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/ca"
)

// account is what the API server says of a service account's token.
func account(user string, audiences ...string) authv1.TokenReviewStatus {
	return authv1.TokenReviewStatus{Authenticated: true, Audiences: audiences, User: authv1.UserInfo{Username: user, Groups: []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:shop"}}}
}

func TestAuthenticate(t *testing.T) {
	const worker = "system:serviceaccount:shop:worker"
	admin := account("admin", DefaultAudience)
	admin.User.Groups = []string{"system:masters"}
	impostor := account(worker, DefaultAudience)
	impostor.User.Groups = []string{"system:authenticated"} // a user may be called anything
	tests := []struct {
		name   string
		status authv1.TokenReviewStatus
		fails  error
		want   string // the identity, or part of the error
	}{
		{"a service account", account(worker, DefaultAudience), nil, "spiffe://cluster.local/ns/shop/sa/worker"},
		{"several audiences", account(worker, "vault", DefaultAudience), nil, "spiffe://cluster.local/ns/shop/sa/worker"},
		{"not valid", authv1.TokenReviewStatus{}, nil, "is not valid"},
		{"expired", authv1.TokenReviewStatus{Error: "token has expired"}, nil, "token has expired"},
		{"valid and an error", func() authv1.TokenReviewStatus {
			s := account(worker, DefaultAudience)
			s.Error = "token was revoked"
			return s
		}(), nil, "token was revoked"},
		{"another audience", account(worker, "https://kubernetes.default.svc"), nil, `want "istio-ca"`},
		{"no audience", account(worker), nil, `want "istio-ca"`},
		{"a person", admin, nil, "no service account"},
		{"a person with an account's name", impostor, nil, "no service account"},
		{"no name", account("system:serviceaccount:shop", DefaultAudience), nil, "no service account"},
		{"a name that reaches further", account("system:serviceaccount:shop:x/ns/shop/sa/admin", DefaultAudience), nil, "is not spiffe://"},
		{"the API server is away", authv1.TokenReviewStatus{}, errors.New("connection refused"), "connection refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var asked *authv1.TokenReview
			client := &fake.FakeAuthenticationV1{Fake: &clienttesting.Fake{}}
			client.AddReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
				asked = action.(clienttesting.CreateAction).GetObject().(*authv1.TokenReview)
				return true, &authv1.TokenReview{Status: tt.status}, tt.fails
			})
			a := &Authenticator{Reviewer: client.TokenReviews(), TrustDomain: "cluster.local"}
			id, err := a.Authenticate(t.Context(), "secret")
			if asked == nil || asked.Spec.Token != "secret" || !slices.Equal(asked.Spec.Audiences, []string{DefaultAudience}) {
				t.Errorf("asked %+v", asked)
			}
			switch {
			case err == nil && id.String() != tt.want:
				t.Errorf("identity %s, want %q", id, tt.want)
			case err != nil && !strings.Contains(err.Error(), tt.want):
				t.Errorf("error %v, want %q", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("the token is in the error: %v", err)
			case errors.Is(err, ca.ErrUnavailable) != (tt.fails != nil):
				t.Errorf("error %v: may be tried again: %v", err, errors.Is(err, ca.ErrUnavailable))
			}
		})
	}
}
