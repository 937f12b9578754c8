/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The names that netmap has for ports, and what they mean.
 */
#include "check.h"
#include "core/status.h"
#include "io/netmap.h"

static char reason[300];

static void test_names_mean_what_netmap_says(void)
{
    static const struct {
        const char *text, *port, *link;
        enum netmap_kind kind;
        uint32_t mode, ringid, mem_id, flags;
    } good[] = {
        {"eth0", "eth0", "eth0", NETMAP_NIC, NM_MODE_ALL_NIC, 0, 0, 0},
        {"eth0^", "eth0", "eth0", NETMAP_NIC, NM_MODE_SW, 0, 0, 0},
        {"eth0*", "eth0", "eth0", NETMAP_NIC, NM_MODE_NIC_SW, 0, 0, 0},
        {"eth0-3", "eth0", "eth0", NETMAP_NIC, NM_MODE_ONE_NIC, 3, 0, 0},
        {"eth0^-1", "eth0", "eth0", NETMAP_NIC, NM_MODE_ONE_SW, 1, 0, 0},
        {"eth0/x", "eth0", "eth0", NETMAP_NIC, NM_MODE_ALL_NIC, 0, 0, NM_FLAG_EXCLUSIVE},
        {"eth0*/x@7", "eth0", "eth0", NETMAP_NIC, NM_MODE_NIC_SW, 0, 7, NM_FLAG_EXCLUSIVE},
        {"eth0@7/x", "eth0", "eth0", NETMAP_NIC, NM_MODE_ALL_NIC, 0, 7, NM_FLAG_EXCLUSIVE},
        {"br-lan", "br-lan", "br-lan", NETMAP_NIC, NM_MODE_ALL_NIC, 0, 0, 0},
        {"br-lan-0", "br-lan", "br-lan", NETMAP_NIC, NM_MODE_ONE_NIC, 0, 0, 0},
        {"eth0.100", "eth0.100", "eth0.100", NETMAP_NIC, NM_MODE_ALL_NIC, 0, 0, 0},
        {"vale0:x", "vale0:x", "", NETMAP_VALE, NM_MODE_ALL_NIC, 0, 0, 0},
        {"valeA:x-0@2", "valeA:x", "", NETMAP_VALE, NM_MODE_ONE_NIC, 0, 2, 0},
        {"vale", "vale", "vale", NETMAP_NIC, NM_MODE_ALL_NIC, 0, 0, 0},
        {"eth0{1", "eth0{1", "eth0", NETMAP_PIPE, NM_MODE_ALL_NIC, 0, 0, 0},
        {"vale0:x}ab", "vale0:x}ab", "", NETMAP_PIPE, NM_MODE_ALL_NIC, 0, 0, 0},
    };
    static const struct {
        const char *text, *word;
    } bad[] = {
        {"", "vale0:x"},      {"^", "vale0:x"},         {"/x", "vale0:x"},        {"eth0/y", "/x"},
        {"eth0@", "@N"},      {"eth0@0", "@N"},         {"eth0@70000", "@N"},     {"eth0@1x", "@N"},
        {"eth0{", "pipe"},    {"{1", "pipe"},           {"eth0{1}2", "pipe"},     {"vale0:", "lacks"},
        {"vale0:x^", "host"}, {"eth0{1*", "host"},      {"a b", "not the name"},  {"eth0:1", "not the name"},
        {"eth0**", "not the name"}, {"an-interface-of-20ch", "too long"},
        {"vale0:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "too long"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "too long"},
    };
    struct port_error error = {reason, sizeof(reason)};
    struct netmap_name name;

    for (size_t i = 0; i < AMS_ARRAY_SIZE(good); i++) {
        CHECK_EQ(netmap_parse(good[i].text, &name, &error), 0);
        CHECK(strcmp(name.port, good[i].port) == 0);
        CHECK(strcmp(name.link, good[i].link) == 0);
        CHECK_EQ(name.kind, good[i].kind);
        CHECK_EQ(name.mode, good[i].mode);
        CHECK_EQ(name.ringid, good[i].ringid);
        CHECK_EQ(name.mem_id, good[i].mem_id);
        CHECK_EQ(name.flags, good[i].flags);
    }
    for (size_t i = 0; i < AMS_ARRAY_SIZE(bad); i++) {
        *reason = '\0';
        CHECK_EQ(netmap_parse(bad[i].text, &name, &error), -AMS_EINVAL);
        if (!strstr(reason, bad[i].word))
            fprintf(stderr, "'%s': %s\n", bad[i].text, reason);
        CHECK(strstr(reason, bad[i].word) != NULL);
    }
    CHECK(netmap_claims_spec("vale0:x") && netmap_claims_spec("valeab1:"));
    CHECK(!netmap_claims_spec("vale") && !netmap_claims_spec("tap:vale0") && !netmap_claims_spec("vale-0:x"));
}

int main(void)
{
    RUN(test_names_mean_what_netmap_says);
    return check_report();
}
