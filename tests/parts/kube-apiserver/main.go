// kube-apiserver runs the Kubernetes API server for the tests, from its own Go module and unchanged.
package main

import (
	"io"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if os.Getenv("EXIT_WITH_STDIN") == "1" {
		go exitWithStdin()
	}
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}

// exitWithStdin ends this process when the other end of its standard input is closed. The test process holds that
// end, so however it dies, this one does not outlive it.
func exitWithStdin() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
