// etcd runs the etcd server for the tests, from its own Go module and unchanged.
package main

import (
	"io"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	if os.Getenv("EXIT_WITH_STDIN") == "1" {
		go exitWithStdin()
	}
	etcdmain.Main(os.Args)
}

// exitWithStdin ends this process when the other end of its standard input is closed. The test process holds that
// end, so however it dies, this one does not outlive it.
func exitWithStdin() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
