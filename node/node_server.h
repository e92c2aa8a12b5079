/*
 * The server of all images of a node: one process with one registry client, cache and data path. It
 * is confined like the server of one mount (node/server.h), is told what to serve by who has
 * started it (node/node_client.h), asks that one for what needs privileges, and ends with it.
 */
#ifndef SLUICE_NODE_NODE_SERVER_H
#define SLUICE_NODE_NODE_SERVER_H

/* The name by which main() knows that it is to be the server. */
#define NODE_SERVER_NAME "sluiced-server"
int node_server_main(int argc, char **argv);

#endif
