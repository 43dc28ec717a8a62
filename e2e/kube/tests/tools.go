//go:build tools

// What Kubernetes' own end-to-end tests are made of; named here so that the module knows what it needs.
package tests

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
