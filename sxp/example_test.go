package sxp_test

import (
	"fmt"
	"os"

	"github.com/xenvnet/xend/sxp"
)

func Example() {
	values, err := sxp.Parse([]byte(`(vnet (id 97) (bridge "vnet97")) # the first`), sxp.Xend)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, v := range values {
		fmt.Println(v.Name(), v.ChildValue("id", "?"), v.ChildValue("security", "none"))
		os.Stdout.Write(sxp.AppendPretty(nil, v, 20)) //nolint:errcheck // an example
	}
	// Output:
	// vnet 97 none
	// (vnet
	//     (id 97)
	//     (bridge vnet97)
	// )
}

func ExampleParse_error() {
	_, err := sxp.Parse([]byte("(vnet\n  (id 97)\n"), sxp.Xend)
	fmt.Println(err)
	// Output:
	// unexpected EOF (line 3, column 1): the list that begins at line 1, column 1 is not closed
}
