package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of one RESP message, in both directions.
const (
	respMaxBulk    = 1 << 20  // bytes of one string
	respMaxArgs    = 1024     // strings of one command
	respMaxCommand = 8 << 20  // bytes of one command
	respMaxLine    = 16 << 10 // bytes of one line, and so of an inline command
	respMaxReply   = 1 << 20  // elements of one reply
)

// respProtocolError is a peer that does not speak RESP, or too much of it: the
// connection is of no more use.
type respProtocolError string

func (e respProtocolError) Error() string { return "Protocol error: " + string(e) }

// redisError is an error reply: the command failed, the connection is fine.
type redisError string

func (e redisError) Error() string { return string(e) }

func newRespReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, respMaxLine) }

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", respProtocolError("too big inline request")
	}
	if err != nil {
		if err == io.EOF && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
}

// readBulk reads n bytes and the line end. Memory grows with what arrives, not
// with what was announced.
func readBulk(r *bufio.Reader, n int) (string, error) {
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r, int64(n)+2); err != nil {
		return "", unexpected(err)
	}
	b := buf.Bytes()
	if b[n] != '\r' || b[n+1] != '\n' {
		return "", respProtocolError("a string does not end where it said")
	}
	return string(b[:n]), nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readCommand reads one command: an array of bulk strings, or an inline line
// split at spaces (quotes mean nothing). An empty line gives no words. io.EOF
// means that the peer left between commands.
func readCommand(r *bufio.Reader) ([]string, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(line, "*") {
		return strings.Fields(line), nil
	}
	count, err := strconv.Atoi(line[1:])
	if err != nil || count > respMaxArgs {
		return nil, respProtocolError("invalid multibulk length")
	}
	var words []string
	total := 0
	for range max(count, 0) {
		line, err := readLine(r)
		if err != nil {
			return nil, unexpected(err)
		}
		if !strings.HasPrefix(line, "$") {
			return nil, respProtocolError("expected '$'")
		}
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 || n > respMaxBulk {
			return nil, respProtocolError("invalid bulk length")
		}
		if total += n; total > respMaxCommand {
			return nil, respProtocolError("too big request")
		}
		word, err := readBulk(r, n)
		if err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}

// readReply reads one reply: nil, int64, string, redisError or []any of these.
func readReply(r *bufio.Reader) (any, error) { return readReplyDepth(r, 0) }

func readReplyDepth(r *bufio.Reader, depth int) (any, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	if line == "" || depth > 4 {
		return nil, respProtocolError("not a reply")
	}
	rest := line[1:]
	switch line[0] {
	case '+':
		return rest, nil
	case '-':
		return redisError(rest), nil
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, respProtocolError("not a number in a reply")
	}
	switch {
	case line[0] == ':':
		return n, nil
	case n == -1 && (line[0] == '$' || line[0] == '*'):
		return nil, nil
	case line[0] == '$' && n >= 0 && n <= respMaxBulk:
		return readBulk(r, int(n))
	case line[0] == '*' && n >= 0 && n <= respMaxReply:
		list := []any{}
		for range n {
			v, err := readReplyDepth(r, depth+1)
			if err != nil {
				return nil, unexpected(err)
			}
			list = append(list, v)
		}
		return list, nil
	}
	return nil, respProtocolError(fmt.Sprintf("unknown reply %.20q", line))
}

// simple is a status reply such as OK, as against a bulk string.
type simple string

// writeReply writes what readReply reads, and simple and []string besides.
// Errors stay in w until its Flush.
func writeReply(w *bufio.Writer, v any) {
	switch v := v.(type) {
	case nil:
		w.WriteString("$-1\r\n")
	case simple:
		fmt.Fprintf(w, "+%s\r\n", v)
	case redisError:
		fmt.Fprintf(w, "-%s\r\n", strings.NewReplacer("\r", " ", "\n", " ").Replace(string(v)))
	case int64:
		fmt.Fprintf(w, ":%d\r\n", v)
	case string:
		fmt.Fprintf(w, "$%d\r\n%s\r\n", len(v), v)
	case []string:
		fmt.Fprintf(w, "*%d\r\n", len(v))
		for _, s := range v {
			writeReply(w, s)
		}
	default:
		writeReply(w, redisError(fmt.Sprintf("ERR cannot encode a %T", v)))
	}
}

func writeCommand(w *bufio.Writer, words ...string) { writeReply(w, words) }
