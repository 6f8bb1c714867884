// Package wireshark holds xend.lua, which makes Wireshark and tshark understand vnets, and its tests.
package wireshark
