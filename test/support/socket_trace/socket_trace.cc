// Loaded by LD_PRELOAD: writes each address that a process binds, connects or sends to, and each
// name that it looks up, as a line of the file $SOCKET_TRACE. An address in digits is no name.

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

template <typename Function>
Function *Next(const char *name) {
  return reinterpret_cast<Function *>(dlsym(RTLD_NEXT, name));
}

void Write(const char *call, const char *kind, const char *address, int port) {
  const char *path = getenv("SOCKET_TRACE");
  int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  if (file >= 0) {
    dprintf(file, "%s %s %s %d\n", call, kind, address, port);
    close(file);
  }
}

void WriteName(const char *name) {
  in6_addr address;
  if (name && !inet_pton(AF_INET, name, &address) && !inet_pton(AF_INET6, name, &address))
    Write("lookup", "dns", name, 0);
}

void WriteAddress(const char *call, int socket, const sockaddr *address) {
  char text[INET6_ADDRSTRLEN] = "";
  int type = 0;
  socklen_t size = sizeof type;
  if (!address || getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size)) return;
  const char *kind = type == SOCK_DGRAM ? "udp" : type == SOCK_STREAM ? "tcp" : "other";
  if (address->sa_family == AF_INET) {
    auto in = reinterpret_cast<const sockaddr_in *>(address);
    Write(call, kind, inet_ntop(AF_INET, &in->sin_addr, text, sizeof text), ntohs(in->sin_port));
  } else if (address->sa_family == AF_INET6) {
    auto in6 = reinterpret_cast<const sockaddr_in6 *>(address);
    Write(call, kind, inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text),
          ntohs(in6->sin6_port));
  }
}

}  // namespace

extern "C" {

int bind(int socket, const sockaddr *address, socklen_t size) {
  WriteAddress("bind", socket, address);
  return Next<decltype(bind)>("bind")(socket, address, size);
}

int connect(int socket, const sockaddr *address, socklen_t size) {
  WriteAddress("connect", socket, address);
  return Next<decltype(connect)>("connect")(socket, address, size);
}

ssize_t sendto(int socket, const void *data, size_t length, int flags, const sockaddr *address,
               socklen_t size) {
  WriteAddress("send", socket, address);
  return Next<decltype(sendto)>("sendto")(socket, data, length, flags, address, size);
}

ssize_t sendmsg(int socket, const msghdr *message, int flags) {
  WriteAddress("send", socket, static_cast<const sockaddr *>(message->msg_name));
  return Next<decltype(sendmsg)>("sendmsg")(socket, message, flags);
}

int getaddrinfo(const char *name, const char *service, const addrinfo *hints, addrinfo **found) {
  WriteName(name);
  return Next<decltype(getaddrinfo)>("getaddrinfo")(name, service, hints, found);
}

hostent *gethostbyname(const char *name) {
  WriteName(name);
  return Next<decltype(gethostbyname)>("gethostbyname")(name);
}

}  // extern "C"
