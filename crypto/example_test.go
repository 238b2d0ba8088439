package crypto_test

import (
	"fmt"

	owcrypto "github.com/overweave/overweave/crypto"
)

func Example() {
	alice, _ := owcrypto.GenerateKeyPair()
	bob, _ := owcrypto.GenerateKeyPair()
	alicePublic, bobPublic := alice.Public(), bob.Public() // these cross the network
	aliceKey, _ := alice.Session(bobPublic[:], []byte("a long password"))
	bobKey, _ := bob.Session(alicePublic[:], []byte("a long password"))

	sealer := owcrypto.NewDatagramSealer(aliceKey, true) // alice dialled
	opener := owcrypto.NewDatagramOpener(bobKey, true)
	datagram := sealer.Seal(nil, owcrypto.Fragmentable, []byte("hello"))
	payload, _, err := opener.Open(nil, datagram)
	fmt.Printf("%s %v\n", payload, err)
	_, _, err = opener.Open(nil, datagram)
	fmt.Println(err)
	// Output:
	// hello <nil>
	// crypto: datagram replayed or too old
}
