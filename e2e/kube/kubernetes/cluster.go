//go:build !apiserveronly

// What a cluster needs beyond its API server. Left out where only the API server is asked for: it is what differs
// between versions as a datastore sees them, and builds in a third of the time.
package main

import (
	"context"

	"github.com/spf13/cobra"
	kubectl "k8s.io/kubectl/pkg/cmd"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func init() {
	programs["kube-controller-manager"] = manager.NewControllerManagerCommand
	programs["kube-scheduler"] = func() *cobra.Command { return scheduler.NewSchedulerCommand() }
	programs["kubelet"] = func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }
	programs["kube-proxy"] = proxy.NewProxyCommand
	programs["kubectl"] = kubectl.NewDefaultKubectlCommand
}
