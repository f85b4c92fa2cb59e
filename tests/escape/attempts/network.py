"""The network"""

import contextlib
import fcntl
import os
import socket
import struct

from trying import HOST, Absent, attempt, define, read

SIOCGIFMTU, SIOCSIFMTU = 0x8921, 0x8922
RTM_NEWLINK, RTM_GETLINK = 16, 18
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL = 1, 4, 0x400, 0x200


def _connected(family, address):
    with socket.socket(family) as stream:
        stream.settimeout(2)
        stream.connect(address)
    return True


@attempt
def loopback_of_the_host():
    """a port on the host's 127.0.0.1"""
    return _connected(socket.AF_INET, ("127.0.0.1", HOST["tcp_port"]))


@attempt
def loopback_of_the_host_ipv6():
    """a port on the host's ::1"""
    if not HOST["tcp6_port"]:
        raise Absent("the host has no IPv6")
    return _connected(socket.AF_INET6, ("::1", HOST["tcp6_port"]))


@attempt
def udp_of_the_host():
    """a datagram to the host and back"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.settimeout(1)
        out.sendto(b"hello", ("127.0.0.1", HOST["udp_port"]))
        return out.recv(16) == b"hello"


@attempt
def address_of_the_host():
    """a port on an address of the host that is not its loopback"""
    if not HOST["address"]:
        raise Absent("the host has no other address")
    return _connected(socket.AF_INET, (HOST["address"], HOST["any_port"]))


@attempt
def abstract_socket_of_the_host():
    """an abstract unix socket of the host"""
    return _connected(socket.AF_UNIX, "\0" + HOST["abstract"])


@attempt
def socket_file_of_the_host():
    """a unix socket of the host by its path"""
    return _connected(socket.AF_UNIX, HOST["unix_path"])


@attempt
def sockets_of_services():
    """D-Bus, systemd, a container engine, a display"""
    known = ("/run/dbus/system_bus_socket", "/run/systemd/private", "/run/docker.sock", "/var/run/docker.sock",
             "/run/podman/podman.sock", "/run/systemd/journal/socket", "/run/udev/control",
             "/tmp/.X11-unix/X0", "/run/nvidia-persistenced/socket")  # fmt: skip
    return [path for path in known if os.path.exists(path)]


@attempt
def the_internet():
    """a route to the outside"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("192.0.2.1", 9))  # sends nothing
    return True


@attempt
def the_internet_ipv6():
    """a route to the outside over IPv6"""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        out.connect(("2001:db8::1", 9))
    return True


@attempt
def names():
    """reach the resolver that the host uses"""
    servers = [line.split()[1] for line in read("/etc/resolv.conf").decode().splitlines() if line.startswith("names")]
    for server in servers:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as out:
            out.connect((server, 53))
            return server
    return None


@attempt
def other_interfaces():
    """find a network interface beyond lo"""
    return [name for _, name in socket.if_nameindex() if name != "lo"]


@attempt
def change_an_interface():
    """set the MTU of lo, to what it is already"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        wanted = fcntl.ioctl(control, SIOCGIFMTU, struct.pack("16si12x", b"lo", 0))
        fcntl.ioctl(control, SIOCSIFMTU, wanted)
    return True


@attempt
def make_an_interface():
    """make a network interface through netlink"""
    message = struct.pack("=BxHiII", 0, 0, 0, 0, 0)  # no kind: what may make one hears EOPNOTSUPP or EINVAL
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(2)
        link.send(struct.pack("=IHHII", 16 + len(message), RTM_NEWLINK, flags, 1, 0) + message)
        (code,) = struct.unpack_from("=i", link.recv(4096), 16)
    if code == -1:
        raise PermissionError(1, "EPERM")
    return f"the kernel answered {code}"


def _opening(family, kind, protocol):
    def opened():
        socket.socket(family, kind, protocol).close()
        return True

    return opened


_ANY, _STREAM, _PACKETS, _RAW = socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW
for _name, _family, _kind, _protocol, _tries in (
    ("raw", 2, _RAW, 1, "raw IPv4"),
    ("raw_ipv6", 10, _RAW, 58, "raw IPv6"),
    ("packet", 17, _RAW, 0, "raw frames (AF_PACKET)"),
    ("packet_datagram", 17, _ANY, 0, "frames without their header"),
    ("vsock", 40, _STREAM, 0, "the host of this virtual machine (AF_VSOCK)"),
    ("kernel_crypto", 38, _PACKETS, 0, "the kernel's ciphers (AF_ALG)"),
    ("xdp", 44, _RAW, 0, "frames without copies (AF_XDP)"),
    ("bluetooth", 31, _RAW, 1, "Bluetooth"),
    ("can", 29, _RAW, 1, "the bus of cars (AF_CAN)"),
    ("tipc", 30, _PACKETS, 0, "TIPC"),
    ("rds", 21, _PACKETS, 0, "RDS"),
    ("key", 15, _RAW, 2, "IPsec's keys (AF_KEY)"),
    ("phonet", 35, _ANY, 0, "Phonet"),
    ("qrtr", 42, _ANY, 0, "Qualcomm's router"),
    ("smc", 43, _STREAM, 0, "SMC"),
    ("sctp", 2, _STREAM, 132, "SCTP, a module that the kernel would load"),
    ("mptcp", 2, _STREAM, 262, "MPTCP"),
    ("udplite", 2, _ANY, 136, "UDP-Lite"),
    ("dccp", 2, 6, 33, "DCCP, a module that the kernel would load"),
    ("dccp_by_type", 2, 6, 0, "DCCP by its type alone"),
    ("packets_by_type", 2, _PACKETS, 0, "SCTP by its type alone"),
    ("mptcp_ipv6", 10, _STREAM, 262, "MPTCP over IPv6"),
    ("ping", 2, _ANY, 1, "ICMP for everybody"),
    ("l2tp", 2, _ANY, 115, "L2TP"),
    ("netlink_sock_diag", 16, _RAW, 4, "netlink: other programs' sockets"),
    ("netlink_xfrm", 16, _RAW, 6, "netlink: IPsec"),
    ("netlink_audit", 16, _RAW, 9, "netlink: audit"),
    ("netlink_netfilter", 16, _RAW, 12, "netlink: the firewall (CVE-2024-1086)"),
    ("netlink_uevent", 16, _RAW, 15, "netlink: events of devices"),
    ("netlink_generic", 16, _RAW, 16, "netlink: all other families"),
    ("netlink_crypto", 16, _RAW, 21, "netlink: the kernel's ciphers"),
):
    define(f"socket_{_name}", f"socket: {_tries}", _opening(_family, _kind, _protocol), group=__doc__)
