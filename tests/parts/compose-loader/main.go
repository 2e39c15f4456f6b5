// compose-loader loads files as Compose v2 does before it runs them, with all their profiles: what it refuses or warns of is said,
// and fails. So does a service that is built and may be pulled: v2 would ask a registry for its image first, in vain.
//
//	compose-loader FILE...
package main

import (
	"context"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"
)

// said counts what the loader warns of, which it does through logrus.
type said struct{ lines int }

func (s *said) Write(line []byte) (int, error) {
	s.lines++
	return os.Stderr.Write(line)
}

func main() {
	warnings := &said{}
	logrus.SetOutput(warnings)
	for _, file := range os.Args[1:] {
		options, err := cli.NewProjectOptions([]string{file}, cli.WithName("test"), cli.WithProfiles([]string{"*"}))
		if err != nil {
			logrus.Fatal(file, ": ", err)
		}
		project, err := options.LoadProject(context.Background())
		if err != nil {
			logrus.Fatal(file, ": ", err)
		}
		for name, service := range project.Services {
			if service.Build != nil && service.PullPolicy != types.PullPolicyNever {
				logrus.Errorf("%s: service %s is built, but has no `pull_policy: never`", file, name)
			}
		}
	}
	if warnings.lines > 0 || len(os.Args) == 1 {
		os.Exit(1)
	}
}
