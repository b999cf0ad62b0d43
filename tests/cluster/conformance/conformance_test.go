// The Gateway API's own conformance suite, as its authors made it.
package conformance_test

import (
	"fmt"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	meshtests "sigs.k8s.io/gateway-api/conformance/tests/mesh"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}

// TestMeshNames says which tests of the suite are about a mesh, so that none can be left out unseen.
func TestMeshNames(t *testing.T) {
	for _, test := range meshtests.MeshConformanceTests {
		fmt.Println("mesh test:", test.ShortName)
	}
}
