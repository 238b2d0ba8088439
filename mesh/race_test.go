//go:build race

package mesh

// underRace: the race detector makes everything several times slower. What it looks for shows among 100 peers as among 300.
const underRace = true
