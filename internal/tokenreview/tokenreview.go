// Package tokenreview proves workloads' identities on Kubernetes: the API server
// says whose service-account token a token is.
package tokenreview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// DefaultAudience is whom Istio's projected tokens are for.
const DefaultAudience = "istio-ca"

const (
	reviewTimeout = 10 * time.Second
	accountPrefix = "system:serviceaccount:"
	accountGroup  = "system:serviceaccounts"
)

// Reviewer is the part of client-go's TokenReviewInterface that is used.
type Reviewer interface {
	Create(context.Context, *authv1.TokenReview, metav1.CreateOptions) (*authv1.TokenReview, error)
}

// Authenticator is a ca.Authenticator that asks the API server. Safe for
// concurrent use.
type Authenticator struct {
	Reviewer    Reviewer
	TrustDomain string
	// Audience the token must be for; "" is DefaultAudience. A token that was made
	// for the API server itself proves nothing here: whoever is sent one by mistake
	// could otherwise get the workload's certificate.
	Audience string
}

// Authenticate implements ca.Authenticator. An API server that does not answer
// is ca.ErrUnavailable: the caller may try again with the same token.
func (a *Authenticator) Authenticate(ctx context.Context, token string) (identity.ID, error) {
	audience := a.Audience
	if audience == "" {
		audience = DefaultAudience
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	r, err := a.Reviewer.Create(ctx, &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{audience}}}, metav1.CreateOptions{})
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: TokenReview: %w", ca.ErrUnavailable, err)
	}
	switch s := &r.Status; {
	case s.Error != "":
		return identity.ID{}, errors.New("TokenReview: " + s.Error)
	case !s.Authenticated:
		return identity.ID{}, errors.New("TokenReview: the token is not valid")
	case !slices.Contains(s.Audiences, audience):
		// An API server that does not know audiences answers without any.
		return identity.ID{}, fmt.Errorf("TokenReview: the token is for %q, want %q", s.Audiences, audience)
	case !slices.Contains(s.User.Groups, accountGroup):
		return identity.ID{}, fmt.Errorf("TokenReview: %q is no service account", s.User.Username)
	}
	return a.account(r.Status.User.Username)
}

// account reads "system:serviceaccount:NAMESPACE:NAME".
func (a *Authenticator) account(user string) (identity.ID, error) {
	rest, ok := strings.CutPrefix(user, accountPrefix)
	namespace, name, split := strings.Cut(rest, ":")
	if !ok || !split {
		return identity.ID{}, fmt.Errorf("TokenReview: %q is no service account", user)
	}
	// Strict, so that no name can reach into another part of the SPIFFE ID.
	return identity.ParseID(identity.ID{TrustDomain: a.TrustDomain, Namespace: namespace, ServiceAccount: name}.String())
}
