// Command module is the program of the test image. Every argument is a step:
//
//	say=TEXT complain=TEXT   a line on standard output, standard error
//	flood=N                  N numbered lines
//	long=N                   one line of N characters
//	cat=FILE env=NAME id     print a file, a variable, user and groups
//	touch=FILE               create a file
//	listen=PORT              answer every connection with the host name, from now on
//	get=HOST:PORT            print the answer, tried for half a minute
//	get6=HOST:PORT           the same over IPv6
//	call=SOCKET~TEXT         wait until the answer of a unix socket has the text
//	watch=FILE~TEXT          wait until the file has the text
//	stubborn                 ignore SIGTERM
//	orphan                   leave a process that ends soon to the first process
//	reaped                   wait until no process is left that ended and was not fetched
//	exit=N                   exit; -1 waits for SIGTERM
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stubborn := false
	for _, arg := range os.Args[1:] {
		verb, value, _ := strings.Cut(arg, "=")
		switch verb {
		case "say":
			fmt.Println(value)
		case "complain":
			fmt.Fprintln(os.Stderr, value)
		case "flood":
			for i := range number(value) {
				fmt.Printf("line %d\n", i)
			}
		case "long":
			fmt.Println(strings.Repeat("x", number(value)))
		case "cat":
			data, err := os.ReadFile(value)
			check(err)
			fmt.Printf("%s", data)
		case "env":
			v, ok := os.LookupEnv(value)
			fmt.Println(v, ok)
		case "id":
			groups, err := os.Getgroups()
			check(err)
			fmt.Println(os.Getuid(), os.Getgid(), groups)
		case "touch":
			check(os.WriteFile(value, []byte("touched\n"), 0o644))
		case "listen":
			l, err := net.Listen("tcp", ":"+value)
			check(err)
			go serve(l)
		case "get":
			get("tcp", value)
		case "get6":
			get("tcp6", value)
		case "call":
			path, text, _ := strings.Cut(value, "~")
			retry(func() error {
				c, err := net.Dial("unix", path)
				if err != nil {
					return err
				}
				defer c.Close()
				data, err := io.ReadAll(c)
				if err == nil && !strings.Contains(string(data), text) {
					err = fmt.Errorf("%s answers %q", path, data)
				}
				return err
			})
		case "watch":
			file, text, _ := strings.Cut(value, "~")
			retry(func() error {
				data, err := os.ReadFile(file)
				if err == nil && !strings.Contains(string(data), text) {
					err = fmt.Errorf("%s is %q", file, data)
				}
				return err
			})
		case "orphan":
			check(exec.Command(os.Args[0], "spawn").Run())
		case "spawn":
			check(exec.Command(os.Args[0], "exit=0").Start())
		case "reaped":
			retry(noZombies)
		case "stubborn":
			signal.Ignore(syscall.SIGTERM)
			stubborn = true
		case "exit":
			if n := number(value); n >= 0 {
				os.Exit(n)
			}
			if stubborn {
				select {}
			}
			<-term
			os.Exit(0)
		}
	}
}

func noZombies() error {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	check(err)
	for _, file := range files {
		if stat, err := os.ReadFile(file); err == nil && strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("%s", stat)
		}
	}
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	check(err)
	return n
}

func retry(f func() error) {
	var err error
	for range 1200 { // two minutes: machines can be slow
		if err = f(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	check(err)
}

func serve(l net.Listener) {
	name, err := os.Hostname()
	check(err)
	for {
		c, err := l.Accept()
		check(err)
		_, _ = fmt.Fprintf(c, "hello from %s\n", name)
		_ = c.Close()
	}
}

func get(network, addr string) {
	retry(func() error {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		reply, err := io.ReadAll(c)
		fmt.Printf("%s", reply)
		return err
	})
}
