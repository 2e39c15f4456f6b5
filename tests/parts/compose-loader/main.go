// compose-loader loads files as Compose v2 does before it runs them, with all their profiles: what it refuses or warns of is said,
// and fails.
//
//	compose-loader FILE...
package main

import (
	"context"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
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
		if err == nil {
			_, err = options.LoadProject(context.Background())
		}
		if err != nil {
			logrus.Errorf("%s: %v", file, err)
		}
	}
	if warnings.lines > 0 || len(os.Args) == 1 {
		os.Exit(1)
	}
}
