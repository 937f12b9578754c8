/* SPDX-License-Identifier: BSD-2-Clause
 *
 * counters.h - everything that the switch counts, in one table.
 *
 * A row is (NAME, "name", what it means).  A frame that is dropped is counted
 * in exactly one of the rows of the last two groups; the index of a tx row is
 * also what switch_tx() gives as its verdict, SWITCH_PASSED (0) being "may
 * leave".
 */
#ifndef AMS_SWITCH_COUNTERS_H
#define AMS_SWITCH_COUNTERS_H

#define SWITCH_COUNTER_TABLE(X)                                                                \
    X(PASSED, "tx_passed", "sent: the source tuple is the sender's")                           \
    /* where received frames went */                                                           \
    X(RX_OWNER, "rx_owner", "delivered to the owner of the destination tuple")                 \
    X(RX_CONTROL, "rx_control", "delivered to the control owner")                              \
    X(RX_HOST, "rx_host", "delivered to the host")                                             \
    /* seen on the way, not dropped for it */                                                  \
    X(RX_FRAGMENTS, "rx_fragments", "fragments received")                                      \
    X(RX_IP_OPTIONS, "rx_ip_options", "packets with IPv4 options")                             \
    X(RX_EXTENSIONS, "rx_extensions", "packets with IPv6 extension headers")                   \
    X(RX_PRIORITY_TAG, "rx_priority_tag", "priority tags (VLAN 0) taken off")                  \
    X(RX_FRAG_EVICTED, "rx_frag_evicted", "fragment records displaced before their time")      \
    X(TX_FRAG_EVICTED, "tx_frag_evicted", "fragment records displaced before their time")      \
    /* received and dropped */                                                                 \
    X(RX_RUNT, "rx_runt", "shorter than an Ethernet header")                                   \
    X(RX_OTHER_MAC, "rx_other_mac", "unicast to somebody else's MAC address")                  \
    X(RX_VLAN, "rx_vlan", "tagged for a VLAN")                                                 \
    X(RX_ETHERTYPE, "rx_ethertype", "neither IPv4, IPv6 nor ARP")                              \
    X(RX_TRUNCATED, "rx_truncated", "ends within a header")                                    \
    X(RX_BAD_HEADER, "rx_bad_header", "a header contradicts itself")                           \
    X(RX_BAD_LENGTH, "rx_bad_length", "a length field exceeds the frame")                      \
    X(RX_SOURCE_ROUTE, "rx_source_route", "source routing (RFC 7126, RFC 5095)")               \
    X(RX_BAD_EXTENSION, "rx_bad_extension", "extension headers malformed or too many")         \
    X(RX_FRAG_TINY, "rx_frag_tiny", "fragment that splits or rewrites the headers (RFC 1858)") \
    X(RX_FRAG_ORPHAN, "rx_frag_orphan", "later fragment whose first was not seen")             \
    X(RX_ICMP_QUOTE, "rx_icmp_quote", "ICMP error whose quoted packet is unusable")            \
    X(RX_NOT_OURS, "rx_not_ours", "destination address is not served here")                    \
    X(RX_NO_MEMORY, "rx_no_memory", "no memory for a copy")                                    \
    X(RX_UNCLAIMED, "rx_unclaimed", "nobody owns the destination tuple")                       \
    /* sent and dropped */                                                                     \
    X(TX_DESCRIPTOR, "tx_descriptor", "lengths of the pieces don't add up")                    \
    X(TX_RUNT, "tx_runt", "shorter than an Ethernet header")                                   \
    X(TX_TOO_LONG, "tx_too_long", "longer than the MTU allows")                                \
    X(TX_SOURCE_MAC, "tx_source_mac", "source MAC address is not the port's")                  \
    X(TX_VLAN, "tx_vlan", "tagged frame")                                                      \
    X(TX_ETHERTYPE, "tx_ethertype", "neither IPv4, IPv6 nor ARP")                              \
    X(TX_TRUNCATED, "tx_truncated", "ends within a header, or hides it beyond reach")          \
    X(TX_BAD_HEADER, "tx_bad_header", "a header contradicts itself")                           \
    X(TX_BAD_LENGTH, "tx_bad_length", "a length field contradicts the frame's length")         \
    X(TX_SOURCE_ROUTE, "tx_source_route", "source routing or routing header")                  \
    X(TX_BAD_EXTENSION, "tx_bad_extension", "extension headers malformed or too many")         \
    X(TX_SOURCE_ADDRESS, "tx_source_address", "source address is not served here")             \
    X(TX_PROTOCOL, "tx_protocol", "protocol that this port may not send")                      \
    X(TX_TUPLE, "tx_tuple", "source tuple is not owned by this port")                          \
    X(TX_ARP, "tx_arp", "ARP that claims too much")                                            \
    X(TX_NDP, "tx_ndp", "neighbour discovery that claims too much")                            \
    X(TX_ICMP, "tx_icmp", "ICMP that this port may not send")                                  \
    X(TX_OFFLOAD, "tx_offload", "checksum or segmentation request that doesn't fit the packet") \
    X(TX_FRAG_TINY, "tx_frag_tiny", "fragment that splits or rewrites the headers (RFC 1858)") \
    X(TX_FRAG_ORPHAN, "tx_frag_orphan", "later fragment whose first was not sent by this port") \
    X(TX_FRAG_CONFLICT, "tx_frag_conflict", "fragment identification in use by another port")

enum switch_counter {
#define SWITCH_COUNTER_ENUM(NAME, name, text) SWITCH_##NAME,
    SWITCH_COUNTER_TABLE(SWITCH_COUNTER_ENUM)
#undef SWITCH_COUNTER_ENUM
    SWITCH_COUNTERS
};

#endif
