"""gRPC services, called by what their .proto files say: nothing is generated beforehand."""

import os
import subprocess

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

GO_SOURCES = "/usr/share/gocode/src"  # where Debian's golang-*-dev packages have their definitions


class Definitions:
    """What protoc reads from these files. Each has a pool of its own, so that two sets may hold
    different versions of one name."""

    def __init__(self, *files, directories=()):
        searched = [*directories, GO_SOURCES,
                    os.path.join(GO_SOURCES, "github.com/gogo/protobuf"), "/usr/include"]
        arguments = ["protoc", "--include_imports", "--descriptor_set_out=/dev/stdout"]
        arguments += ["--proto_path=" + path for path in searched]
        made = subprocess.run([*arguments, *files], stdin=subprocess.DEVNULL, check=True,
                              stdout=subprocess.PIPE).stdout
        self.pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(made).file:
            self.pool.Add(file)
        self.factory = message_factory.MessageFactory(self.pool)

    def message(self, descriptor):
        return self.factory.GetPrototype(descriptor)


def connect(path):
    """A channel to a unix socket. Without a name of its own the path would be the authority; and
    another channel may have a connection on which nobody listens any more."""
    return grpc.insecure_channel("unix:" + path, options=[
        ("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)])


class Service:
    """One service behind a channel: call("Method", field=value, ...)."""

    def __init__(self, channel, definitions, name, metadata=()):
        self.metadata = tuple(metadata)
        self.calls = {}
        for method in definitions.pool.FindServiceByName(name).methods:
            described = descriptor_pb2.MethodDescriptorProto()
            method.CopyToProto(described)
            request, answer = map(definitions.message, (method.input_type, method.output_type))
            make = channel.unary_stream if described.server_streaming else channel.unary_unary
            call = make(f"/{name}/{method.name}", request_serializer=request.SerializeToString,
                        response_deserializer=answer.FromString)
            self.calls[method.name] = (request, call, described.server_streaming)

    def call(self, method, deadline=120, **fields):
        """The answer; of a stream, the list of them. Fails with grpc.RpcError."""
        request, call, is_stream = self.calls[method]
        answer = call(request(**fields), timeout=deadline, metadata=self.metadata)
        return list(answer) if is_stream else answer
