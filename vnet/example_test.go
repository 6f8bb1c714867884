package vnet_test

import (
	"errors"
	"fmt"

	"github.com/xenvnet/xend/vnet"
)

// What a configuration leaves out has defaults; what it says besides is kept, and told.
func ExampleParseConfig() {
	c, err := vnet.ParseConfig([]byte("(vnet (id 97) (brigde br0))"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.ID, c.Bridge, c.Vnetif, c.Security)
	for _, field := range c.Unknown {
		fmt.Printf("%s means nothing; %s?\n", field, vnet.Suggest(field))
	}
	// Output:
	// 0000:0000:0000:0000:0000:0000:0000:0097 vnet97 vnif97 none
	// brigde means nothing; bridge?
}

// Errors tell the field.
func ExampleParseConfig_mistake() {
	_, err := vnet.ParseConfig([]byte("(vnet (id 97) (bridge a/b))"))
	var field *vnet.FieldError
	if errors.As(err, &field) {
		fmt.Println(field.Field)
	}
	fmt.Println(err)
	// Output:
	// bridge
	// invalid vnet config: bridge: the name "a/b" contains "/", which no device name may
}

// Ids are hexadecimal, in one group or in eight.
func ExampleParseID() {
	for _, text := range []string{"97", "0:0:0:0:0:0:1:2", "12345"} {
		id, err := vnet.ParseID(text)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(id)
	}
	// Output:
	// 0000:0000:0000:0000:0000:0000:0000:0097
	// 0000:0000:0000:0000:0000:0000:0001:0002
	// invalid vnet id "12345": group "12345" is not 1 to 4 hexadecimal digits
}

func ExampleConfig_Difference() {
	old, _ := vnet.ParseConfig([]byte("(vnet (id 97))"))
	asked, _ := vnet.ParseConfig([]byte("(vnet (bridge br0) (id 0097))"))
	fmt.Println(old.Difference(asked))
	// Output: bridge vnet97 instead of br0
}
