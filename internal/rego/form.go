package rego

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"
)

// parseForm reads a multipart form: lists of texts by name, JSON parts parsed.
func parseForm(kind string, body []byte) (any, error) {
	_, params, err := mime.ParseMediaType(kind)
	if err != nil {
		return nil, err
	}
	if params["boundary"] == "" {
		return nil, errors.New("multipart: no boundary")
	}
	out := map[string]any{}
	for r := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(p)
		if err != nil {
			return nil, err
		}
		name := p.FormName()
		if name == "" {
			continue
		}
		var value any = string(b)
		if strings.Contains(p.Header.Get("Content-Type"), "application/json") {
			if err := util.Unmarshal(b, &value); err != nil {
				return nil, err
			}
		}
		list, _ := out[name].([]any)
		out[name] = append(list, value)
	}
}

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
