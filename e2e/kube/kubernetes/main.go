// Kubernetes in one file: it is whichever of its programs it is called as.
//
// A linker that sees all of them at once shares what they share, so six programs take the disk and the building time
// of one and a half. The programs are Kubernetes' own; nothing here changes how they behave.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// programs holds a constructor for each name; other files add theirs where the build wants more than the API server.
var programs = map[string]func() *cobra.Command{
	"kube-apiserver": apiserver.NewAPIServerCommand,
}

func main() {
	name := filepath.Base(os.Args[0])
	program, known := programs[name]
	if !known {
		fmt.Fprintf(os.Stderr, "%s: not the name of a program in this file\n", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(program()))
}
