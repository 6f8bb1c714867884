package sxp_test

import (
	"fmt"
	"os"

	"github.com/xenvnet/xend/sxp"
)

// A configuration file is a sequence of forms, whose fields are found by name.
func ExampleParse() {
	forms, err := sxp.Parse([]byte("(vnet (id 97) (bridge 'my bridge')) # the test network"), sxp.Xend)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, form := range forms {
		fmt.Println(form.Name(), form.ChildValue("id", ""), form.ChildValue("bridge", ""), form.ChildValue("security", "none"))
	}
	// Output: vnet 97 my bridge none
}

// A mistake is told with its place.
func ExampleParse_mistake() {
	_, err := sxp.Parse([]byte("(vnet\n  (id 97)\n"), sxp.Xend)
	fmt.Println(err)
	// Output: unexpected EOF (line 3, column 1): the list that begins at line 1, column 1 is not closed
}

// Values are written as Xen's tools write them: with quotes where they are needed, over several lines where one
// is too short.
func ExampleWritePretty() {
	form := sxp.List(sxp.Atom("vnet"), sxp.Pair("id", "97"), sxp.Pair("bridge", "my bridge"), sxp.Pair("vnetif", "vnif97"))
	fmt.Println(form)
	if err := sxp.WritePretty(os.Stdout, form, 30); err != nil {
		fmt.Println(err)
	}
	// Output:
	// (vnet (id 97) (bridge 'my bridge') (vnetif vnif97))
	// (vnet
	//     (id 97)
	//     (bridge 'my bridge')
	//     (vnetif vnif97)
	// )
}
