package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	redisTimeout = 2 * time.Second // for one command, the connection included
	redisIdle    = 16              // connections kept between commands
)

// redisClient sends commands to one Redis over a few kept connections. Safe
// for concurrent use.
type redisClient struct {
	address string
	idle    chan *redisConn
}

type redisConn struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func newRedisClient(address string) *redisClient {
	return &redisClient{address: address, idle: make(chan *redisConn, redisIdle)}
}

// close closes the kept connections; commands under way keep theirs.
func (c *redisClient) close() {
	for {
		select {
		case conn := <-c.idle:
			conn.Close()
		default:
			return
		}
	}
}

// do runs one command and returns its reply (see readReply); an error reply is
// a redisError.
func (c *redisClient) do(ctx context.Context, words ...string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	var reply any
	err := io.EOF
	select {
	case conn := <-c.idle:
		reply, err = c.exchange(ctx, conn, words)
	default:
	}
	// A kept connection that ends without a word was closed while idle, by a
	// restart for instance. Its peers are likely to be dead as well.
	if err == io.EOF {
		c.close()
		var conn *redisConn
		if conn, err = c.dial(ctx); err == nil {
			reply, err = c.exchange(ctx, conn, words)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("redis %s at %s: %w", words[0], c.address, err)
	}
	if e, ok := reply.(redisError); ok {
		return nil, fmt.Errorf("redis %s: %w", words[0], e)
	}
	return reply, nil
}

func (c *redisClient) dial(ctx context.Context) (*redisConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	return &redisConn{Conn: conn, r: newRespReader(conn), w: bufio.NewWriter(conn)}, nil
}

// exchange owns conn: it goes back to the idle ones or is closed. Any failure
// closes it, since the next reply on it would answer the wrong command.
func (c *redisClient) exchange(ctx context.Context, conn *redisConn, words []string) (any, error) {
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	writeCommand(conn.w, words...)
	err := conn.w.Flush()
	var reply any
	if err == nil {
		reply, err = readReply(conn.r)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	select {
	case c.idle <- conn:
	default:
		conn.Close()
	}
	return reply, nil
}

// typed runs a command whose reply must be a T.
func typed[T any](ctx context.Context, c *redisClient, words ...string) (T, error) {
	var zero T
	reply, err := c.do(ctx, words...)
	if err != nil {
		return zero, err
	}
	v, ok := reply.(T)
	if !ok {
		return zero, fmt.Errorf("redis %s: unexpected reply %T", words[0], reply)
	}
	return v, nil
}

func (c *redisClient) ping(ctx context.Context) error {
	reply, err := typed[string](ctx, c, "PING")
	if err == nil && reply != "PONG" {
		err = errors.New("redis PING: no PONG")
	}
	return err
}

func (c *redisClient) incr(ctx context.Context, key string) (int64, error) {
	return typed[int64](ctx, c, "INCR", key)
}

func (c *redisClient) hset(ctx context.Context, key, field, value string) error {
	_, err := typed[int64](ctx, c, "HSET", key, field, value)
	return err
}

// hget returns false when the field is not there.
func (c *redisClient) hget(ctx context.Context, key, field string) (string, bool, error) {
	reply, err := c.do(ctx, "HGET", key, field)
	if err != nil || reply == nil {
		return "", false, err
	}
	value, ok := reply.(string)
	if !ok {
		return "", false, fmt.Errorf("redis HGET: unexpected reply %T", reply)
	}
	return value, true, nil
}

// hdel returns whether the field was there.
func (c *redisClient) hdel(ctx context.Context, key, field string) (bool, error) {
	n, err := typed[int64](ctx, c, "HDEL", key, field)
	return n > 0, err
}

func (c *redisClient) hgetall(ctx context.Context, key string) (map[string]string, error) {
	list, err := typed[[]any](ctx, c, "HGETALL", key)
	if err != nil {
		return nil, err
	}
	if len(list)%2 != 0 {
		return nil, errors.New("redis HGETALL: an odd number of strings")
	}
	hash := make(map[string]string, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		field, ok := list[i].(string)
		value, ok2 := list[i+1].(string)
		if !ok || !ok2 {
			return nil, errors.New("redis HGETALL: not strings")
		}
		hash[field] = value
	}
	return hash, nil
}
