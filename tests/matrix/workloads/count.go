package main

import (
	"fmt"
	"os"
	"time"
)

// Goroutines hand a number around a ring of channels.
func main() {
	const size = 50
	ring := make([]chan int, size)
	for i := range ring {
		ring[i] = make(chan int)
	}
	for i := range ring {
		go func(from, to chan int) {
			for n := range from {
				to <- n
			}
		}(ring[i], ring[(i+1)%size])
		if i == size-2 {
			break
		}
	}
	out, _ := os.OpenFile("/out", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	for n := 1; ; n++ {
		ring[0] <- n
		fmt.Fprintln(out, <-ring[size-1])
		time.Sleep(30 * time.Millisecond)
	}
}
