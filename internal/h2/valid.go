package h2

// nameChars are the characters of a field name in HTTP/2: RFC 9110's token
// without capitals (RFC 9113 section 8.2.1).
var nameChars = func() (t [256]bool) {
	for c := 'a'; c <= 'z'; c++ {
		t[c] = true
	}
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// validName accepts field names and, by the colon in front, pseudo fields.
func validName(s string) bool {
	if len(s) > 0 && s[0] == ':' {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		if !nameChars[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// validValue refuses what RFC 9113 section 8.2.1 refuses, and the other control
// characters with it, as RFC 9110 section 5.5 allows.
func validValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	if s == "" {
		return true
	}
	first, last := s[0], s[len(s)-1]
	return first != ' ' && first != '\t' && last != ' ' && last != '\t'
}

// validMethod is RFC 9110's token; methods are case-sensitive.
func validMethod(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !nameChars[c] && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != ""
}

// validAuthority refuses userinfo (RFC 9113 section 8.3.1) and what no host
// can contain.
func validAuthority(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7f || c == '@' || c == '/' || c == '?' || c == '#' || c == '\\':
			return false
		}
	}
	return true
}

// validPath accepts origin-form; "*" belongs to OPTIONS.
func validPath(path, method string) bool {
	if path == "" || path[0] != '/' {
		return path == "*" && method == "OPTIONS"
	}
	for i := 0; i < len(path); i++ {
		if c := path[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// validScheme is RFC 3986 section 3.1, in the lower case everybody sends.
func validScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}
