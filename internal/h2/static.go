package h2

// staticTable is RFC 7541 appendix A; index 1 of the standard is [0].
var staticTable = [...]staticField{
	{":authority", ""},
	{":method", "GET"},
	{":method", "POST"},
	{":path", "/"},
	{":path", "/index.html"},
	{":scheme", "http"},
	{":scheme", "https"},
	{":status", "200"},
	{":status", "204"},
	{":status", "206"},
	{":status", "304"},
	{":status", "400"},
	{":status", "404"},
	{":status", "500"},
	{"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"},
	{"accept-language", ""},
	{"accept-ranges", ""},
	{"accept", ""},
	{"access-control-allow-origin", ""},
	{"age", ""},
	{"allow", ""},
	{"authorization", ""},
	{"cache-control", ""},
	{"content-disposition", ""},
	{"content-encoding", ""},
	{"content-language", ""},
	{"content-length", ""},
	{"content-location", ""},
	{"content-range", ""},
	{"content-type", ""},
	{"cookie", ""},
	{"date", ""},
	{"etag", ""},
	{"expect", ""},
	{"expires", ""},
	{"from", ""},
	{"host", ""},
	{"if-match", ""},
	{"if-modified-since", ""},
	{"if-none-match", ""},
	{"if-range", ""},
	{"if-unmodified-since", ""},
	{"last-modified", ""},
	{"link", ""},
	{"location", ""},
	{"max-forwards", ""},
	{"proxy-authenticate", ""},
	{"proxy-authorization", ""},
	{"range", ""},
	{"referer", ""},
	{"refresh", ""},
	{"retry-after", ""},
	{"server", ""},
	{"set-cookie", ""},
	{"strict-transport-security", ""},
	{"transfer-encoding", ""},
	{"user-agent", ""},
	{"vary", ""},
	{"via", ""},
	{"www-authenticate", ""},
}

type staticField struct{ Name, Value string }

// staticName returns the index of the first static entry with that name, or 0.
// The length decides most names with one comparison.
func staticName(name string) uint64 {
	switch len(name) {
	case 3:
		return oneOf(name, 21, 60)
	case 4:
		return oneOf(name, 33, 34, 37, 38, 45, 59)
	case 5:
		return oneOf(name, 4, 22, 50)
	case 6:
		return oneOf(name, 19, 32, 35, 54)
	case 7:
		return oneOf(name, 2, 6, 8, 36, 51, 52)
	case 8:
		return oneOf(name, 39, 42, 46)
	case 10:
		return oneOf(name, 1, 55, 58)
	case 11:
		return oneOf(name, 53)
	case 12:
		return oneOf(name, 31, 47)
	case 13:
		return oneOf(name, 18, 23, 24, 30, 41, 44)
	case 14:
		return oneOf(name, 15, 28)
	case 15:
		return oneOf(name, 16, 17)
	case 16:
		return oneOf(name, 26, 27, 29, 61)
	case 17:
		return oneOf(name, 40, 57)
	case 18:
		return oneOf(name, 48)
	case 19:
		return oneOf(name, 25, 43, 49)
	case 25:
		return oneOf(name, 56)
	case 27:
		return oneOf(name, 20)
	}
	return 0
}

func oneOf(name string, indexes ...uint8) uint64 {
	for _, i := range indexes {
		if staticTable[i-1].Name == name {
			return uint64(i)
		}
	}
	return 0
}
