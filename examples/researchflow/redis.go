package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	redisMaxConns  = 1000
	redisMaxMemory = 64 << 20 // bytes of keys, fields and values
)

// runRedis is the redis role: a store in memory that speaks RESP2, gone when
// the process ends. A stock redis-server can take its place.
func runRedis(ctx context.Context, env environ, log *slog.Logger) error {
	ln, err := net.Listen("tcp", env.address("6379"))
	if err != nil {
		return err
	}
	servers := []func(context.Context) error{
		func(ctx context.Context) error { return newRedisServer().serve(ctx, log, ln) },
	}
	if address, h := healthPort(env); h != nil {
		servers = append(servers, func(ctx context.Context) error { return listenHTTP(ctx, log, address, h) })
	}
	return together(ctx, servers...)
}

// redisServer holds the data. Safe for concurrent use.
type redisServer struct {
	maxMemory int

	mu     sync.Mutex
	plain  map[string]string            // guarded by mu
	hashes map[string]map[string]string // guarded by mu; never an empty hash
	used   int                          // guarded by mu; bytes
}

func newRedisServer() *redisServer {
	return &redisServer{
		maxMemory: redisMaxMemory,
		plain:     map[string]string{},
		hashes:    map[string]map[string]string{},
	}
}

func (s *redisServer) serve(ctx context.Context, log *slog.Logger, ln net.Listener) error {
	refuse := func(conn net.Conn) { conn.Write([]byte("-ERR max number of clients reached\r\n")) }
	return serveTCP(ctx, log, ln, redisMaxConns, refuse, s.handle)
}

// handle answers the commands of one connection in order. Replies to a
// pipeline go out together.
func (s *redisServer) handle(conn net.Conn) {
	r, w := newRespReader(conn), bufio.NewWriter(conn)
	for {
		words, err := readCommand(r)
		if err != nil {
			if _, ok := errors.AsType[respProtocolError](err); ok {
				writeReply(w, redisError("ERR "+err.Error()))
				conn.SetWriteDeadline(time.Now().Add(time.Second))
				w.Flush()
			}
			return
		}
		if len(words) == 0 {
			continue
		}
		name := strings.ToUpper(words[0])
		if name == "POST" || name == "HOST:" {
			return // a browser was made to talk to us; stock Redis hangs up too
		}
		writeReply(w, s.do(name, words[1:]))
		if name == "QUIT" || r.Buffered() == 0 {
			if w.Flush() != nil || name == "QUIT" {
				return
			}
		}
	}
}

const (
	errSyntax    = redisError("ERR syntax error")
	errWrongType = redisError("WRONGTYPE Operation against a key holding the wrong kind of value")
	errMemory    = redisError("OOM command not allowed when used memory > 'maxmemory'.")
	errInteger   = redisError("ERR value is not an integer or out of range")
)

// do runs one command; name is in upper case.
func (s *redisServer) do(name string, args []string) any {
	least, most := redisArity(name)
	if least < 0 {
		return redisError(fmt.Sprintf("ERR unknown command '%.64s'", name))
	}
	if len(args) < least || most >= 0 && len(args) > most {
		return redisError("ERR wrong number of arguments for '" + strings.ToLower(name) + "' command")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch name {
	case "PING":
		if len(args) == 1 {
			return args[0]
		}
		return simple("PONG")
	case "ECHO":
		return args[0]
	case "SELECT":
		if args[0] != "0" {
			return redisError("ERR DB index is out of range")
		}
		return simple("OK")
	case "CLIENT", "QUIT":
		return simple("OK")
	case "COMMAND":
		return []string{}
	case "INFO":
		return s.infoLocked()
	case "KEYS":
		return s.keysLocked(args[0])
	case "DEL", "EXISTS":
		return s.countLocked(args, name == "DEL")
	case "GET", "SET", "INCR":
		return s.plainLocked(name, args)
	default:
		return s.hashLocked(name, args)
	}
}

// redisArity is how many arguments a command takes: most < 0 is any number,
// least < 0 an unknown command.
func redisArity(name string) (least, most int) {
	switch name {
	case "QUIT":
		return 0, 0
	case "PING":
		return 0, 1
	case "COMMAND", "INFO":
		return 0, -1
	case "ECHO", "SELECT", "KEYS", "GET", "INCR", "HGETALL":
		return 1, 1
	case "CLIENT", "DEL", "EXISTS":
		return 1, -1
	case "HGET":
		return 2, 2
	case "SET", "HDEL":
		return 2, -1
	case "HSET":
		return 3, -1
	}
	return -1, -1
}

func (s *redisServer) infoLocked() string {
	return fmt.Sprintf("# Server\r\nredis_version:7.0.0\r\nserver_name:researchflow\r\nredis_mode:standalone\r\n"+
		"# Memory\r\nused_memory:%d\r\nmaxmemory:%d\r\n# Replication\r\nrole:master\r\n# Keyspace\r\ndb0:keys=%d,expires=0,avg_ttl=0\r\n",
		s.used, s.maxMemory, len(s.plain)+len(s.hashes))
}

func (s *redisServer) keysLocked(pattern string) any {
	if strings.ContainsAny(pattern, `?[]\`) {
		return redisError("ERR only * is supported in a pattern")
	}
	keys := []string{}
	for _, all := range [][]string{slices.Collect(maps.Keys(s.plain)), slices.Collect(maps.Keys(s.hashes))} {
		for _, key := range all {
			if globMatch(pattern, key) {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

// globMatch matches a pattern whose only special character is *.
func globMatch(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

// countLocked counts the keys that exist and, for DEL, removes them.
func (s *redisServer) countLocked(keys []string, remove bool) int64 {
	var n int64
	for _, key := range keys {
		value, isPlain := s.plain[key]
		hash, isHash := s.hashes[key]
		if !isPlain && !isHash {
			continue
		}
		n++
		if !remove {
			continue
		}
		s.used -= len(key)
		if isPlain {
			s.used -= len(value)
			delete(s.plain, key)
		} else {
			for field, value := range hash {
				s.used -= len(field) + len(value)
			}
			delete(s.hashes, key)
		}
	}
	return n
}

func (s *redisServer) plainLocked(name string, args []string) any {
	key := args[0]
	value, ok := s.plain[key]
	if s.hashes[key] != nil {
		if name != "SET" || len(args) != 2 {
			return errWrongType
		}
		s.countLocked(args[:1], true) // SET replaces whatever was there
	}
	switch name {
	case "GET":
		if !ok {
			return nil
		}
		return value
	case "SET":
		if len(args) != 2 {
			return errSyntax
		}
		if !s.setLocked(key, args[1]) {
			return errMemory
		}
		return simple("OK")
	}
	n := int64(0)
	if ok {
		var err error
		if n, err = strconv.ParseInt(value, 10, 64); err != nil || n == 1<<63-1 {
			return errInteger
		}
	}
	if !s.setLocked(key, strconv.FormatInt(n+1, 10)) {
		return errMemory
	}
	return n + 1
}

func (s *redisServer) setLocked(key, value string) bool {
	grow := len(value)
	if old, ok := s.plain[key]; ok {
		grow -= len(old)
	} else {
		grow += len(key)
	}
	if grow > 0 && s.used+grow > s.maxMemory {
		return false
	}
	s.plain[key] = value
	s.used += grow
	return true
}

func (s *redisServer) hashLocked(name string, args []string) any {
	key := args[0]
	if _, ok := s.plain[key]; ok {
		return errWrongType
	}
	hash := s.hashes[key]
	switch name {
	case "HGET":
		if value, ok := hash[args[1]]; ok {
			return value
		}
		return nil
	case "HGETALL":
		list := make([]string, 0, 2*len(hash))
		for _, field := range slices.Sorted(maps.Keys(hash)) {
			list = append(list, field, hash[field])
		}
		return list
	case "HDEL":
		var n int64
		for _, field := range args[1:] {
			if value, ok := hash[field]; ok {
				delete(hash, field)
				s.used -= len(field) + len(value)
				n++
			}
		}
		if hash != nil && len(hash) == 0 {
			delete(s.hashes, key)
			s.used -= len(key)
		}
		return n
	}
	return s.hsetLocked(key, args[1:])
}

func (s *redisServer) hsetLocked(key string, pairs []string) any {
	if len(pairs)%2 != 0 {
		return redisError("ERR wrong number of arguments for 'hset' command")
	}
	size := len(key)
	for _, p := range pairs {
		size += len(p)
	}
	if s.used+size > s.maxMemory {
		return errMemory
	}
	hash := s.hashes[key]
	if hash == nil {
		hash = map[string]string{}
		s.hashes[key] = hash
		s.used += len(key)
	}
	var added int64
	for pair := range slices.Chunk(pairs, 2) {
		field, value := pair[0], pair[1]
		if old, ok := hash[field]; ok {
			s.used -= len(old)
		} else {
			s.used += len(field)
			added++
		}
		hash[field] = value
		s.used += len(value)
	}
	return added
}
