package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"
)

// Codes of the first message of a connection (PostgreSQL protocol 3.0,
// "Message Formats").
const (
	postgresProtocol = 3 << 16
	postgresCancel   = 1234<<16 | 5678
	postgresTLS      = 1234<<16 | 5679
	postgresGSS      = 1234<<16 | 5680
)

const (
	postgresMaxConns   = 200
	postgresMaxStartup = 10000   // bytes, the limit of the stock server
	postgresMaxMessage = 1 << 20 // bytes
	postgresVersion    = "16.0"
)

// runPostgres is the postgres role: it answers health checks and nothing of
// the application is stored in it.
func runPostgres(ctx context.Context, env environ, log *slog.Logger) error {
	ln, err := net.Listen("tcp", env.address("5432"))
	if err != nil {
		return err
	}
	servers := []func(context.Context) error{
		func(ctx context.Context) error {
			return serveTCP(ctx, log, ln, postgresMaxConns, refusePostgres, handlePostgres)
		},
	}
	if address, h := healthPort(env); h != nil {
		servers = append(servers, func(ctx context.Context) error { return listenHTTP(ctx, log, address, h) })
	}
	return together(ctx, servers...)
}

func refusePostgres(conn net.Conn) {
	w := bufio.NewWriter(conn)
	writePostgresError(w, "FATAL", "53300", "sorry, too many clients already")
	w.Flush()
}

// handlePostgres is one connection: startup, then messages until Terminate.
func handlePostgres(conn net.Conn) {
	r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if !postgresStartup(r, w) {
		w.Flush()
		return
	}
	conn.SetDeadline(time.Time{})
	skip := false // after an error in the extended protocol, until Sync
	for w.Flush() == nil {
		kind, body, err := readPostgres(r)
		if err != nil {
			if errors.Is(err, errPostgresLength) {
				writePostgresError(w, "FATAL", "08P01", err.Error())
				w.Flush()
			}
			return
		}
		switch kind {
		case 'X':
			return
		case 'Q':
			skip = false
			answerPostgres(w, body)
			writePostgres(w, 'Z', []byte("I"))
		case 'S':
			skip = false
			writePostgres(w, 'Z', []byte("I"))
		case 'P', 'B', 'D', 'E', 'C', 'F':
			if !skip {
				writePostgresError(w, "ERROR", "0A000", "only simple queries are supported")
			}
			// A function call (F) is not part of the extended protocol: it ends
			// with ReadyForQuery itself.
			if kind == 'F' {
				writePostgres(w, 'Z', []byte("I"))
			} else {
				skip = true
			}
		case 'H':
		default:
			writePostgresError(w, "FATAL", "08P01", fmt.Sprintf("unknown message type %q", kind))
			w.Flush()
			return
		}
	}
}

// postgresStartup goes through the messages before the login; false when the
// connection is to be closed.
func postgresStartup(r *bufio.Reader, w *bufio.Writer) bool {
	for range 3 { // TLS, GSS, then the startup itself
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return false
		}
		length, code := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
		if length < 8 || length > postgresMaxStartup {
			return false
		}
		body := make([]byte, length-8)
		if _, err := io.ReadFull(r, body); err != nil {
			return false
		}
		switch {
		case code == postgresTLS || code == postgresGSS:
			w.WriteByte('N')
			if w.Flush() != nil {
				return false
			}
		case code == postgresCancel:
			return false
		case code>>16 != 3:
			writePostgresError(w, "FATAL", "0A000", fmt.Sprintf("unsupported frontend protocol %d.%d", code>>16, code&0xffff))
			return false
		default:
			return postgresWelcome(w, code, body)
		}
	}
	return false
}

func postgresWelcome(w *bufio.Writer, code uint32, body []byte) bool {
	var user bool
	var unknown []byte // protocol options, each zero-terminated
	count := 0
	words := bytes.Split(body, []byte{0})
	for i := 0; i+1 < len(words) && len(words[i]) > 0; i += 2 {
		user = user || string(words[i]) == "user" && len(words[i+1]) > 0
		if bytes.HasPrefix(words[i], []byte("_pq_.")) {
			unknown = append(append(unknown, words[i]...), 0)
			count++
		}
	}
	if !user {
		writePostgresError(w, "FATAL", "28000", "no PostgreSQL user name specified in startup packet")
		return false
	}
	if code != postgresProtocol || count > 0 {
		// NegotiateProtocolVersion: the newest minor version we speak is 0.
		b := binary.BigEndian.AppendUint32(nil, postgresProtocol)
		b = binary.BigEndian.AppendUint32(b, uint32(count))
		writePostgres(w, 'v', append(b, unknown...))
	}
	writePostgres(w, 'R', []byte{0, 0, 0, 0})
	for _, p := range []string{
		"server_version\x00" + postgresVersion, "server_encoding\x00UTF8", "client_encoding\x00UTF8",
		"DateStyle\x00ISO, MDY", "integer_datetimes\x00on", "standard_conforming_strings\x00on",
	} {
		writePostgres(w, 'S', []byte(p+"\x00"))
	}
	writePostgres(w, 'Z', []byte("I"))
	return true
}

const (
	oidInt4 = 23
	oidText = 25
)

// answerPostgres answers one simple query, all but the final ReadyForQuery.
func answerPostgres(w *bufio.Writer, body []byte) {
	query := strings.TrimSuffix(string(body), "\x00")
	query = strings.TrimSpace(strings.TrimRight(strings.TrimSpace(query), ";"))
	switch strings.Join(strings.Fields(strings.ToLower(query)), " ") {
	case "":
		writePostgres(w, 'I', nil)
	case "select 1":
		writePostgresRow(w, "?column?", oidInt4, 4, "1", "SELECT 1")
	case "select version()":
		writePostgresRow(w, "version", oidText, -1, "PostgreSQL "+postgresVersion+" (researchflow, for health checks only)", "SELECT 1")
	case "show server_version":
		writePostgresRow(w, "server_version", oidText, -1, postgresVersion, "SHOW")
	default:
		writePostgresError(w, "ERROR", "0A000", "this server is for health checks: it knows select 1, select version() and show server_version")
	}
}

// writePostgresRow writes a result of one column and one row.
func writePostgresRow(w *bufio.Writer, column string, oid uint32, size int16, value, tag string) {
	be := binary.BigEndian
	b := append(be.AppendUint16(nil, 1), column+"\x00"...)
	b = be.AppendUint32(b, 0) // no table
	b = be.AppendUint16(b, 0) // no column of it
	b = be.AppendUint32(b, oid)
	b = be.AppendUint16(b, uint16(size))
	b = be.AppendUint32(b, 0xffffffff) // no type modifier
	b = be.AppendUint16(b, 0)          // as text
	writePostgres(w, 'T', b)
	b = be.AppendUint16(nil, 1)
	b = be.AppendUint32(b, uint32(len(value)))
	writePostgres(w, 'D', append(b, value...))
	writePostgres(w, 'C', []byte(tag+"\x00"))
}

func writePostgresError(w *bufio.Writer, severity, state, message string) {
	writePostgres(w, 'E', []byte("S"+severity+"\x00V"+severity+"\x00C"+state+"\x00M"+message+"\x00\x00"))
}

// writePostgres writes one message; errors stay in w until its Flush.
func writePostgres(w *bufio.Writer, kind byte, body []byte) {
	w.WriteByte(kind)
	w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)))
	w.Write(body)
}

var errPostgresLength = errors.New("invalid message length")

// readPostgres reads one message after the startup.
func readPostgres(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length < 4 || length > postgresMaxMessage {
		return 0, nil, errPostgresLength
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r, int64(length)-4); err != nil {
		return 0, nil, unexpected(err)
	}
	return head[0], buf.Bytes(), nil
}
