/* Preloaded: the wall clock is as many seconds ahead as the first eight bytes of $TOY_CLOCK say. No other clock is. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead;

static void __attribute__((constructor)) begin(void) {
  const char *name = getenv("TOY_CLOCK");
  int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
  if (page != MAP_FAILED) ahead = page;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *told) {
  int failed = (int)syscall(SYS_clock_gettime, clock, told);
  if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) told->tv_sec += *ahead;
  return failed;
}

int gettimeofday(struct timeval *restrict told, void *restrict zone) {
  struct timespec moment;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &moment)) return -1;
  told->tv_sec = moment.tv_sec;
  told->tv_usec = moment.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *told) {
  struct timespec moment;
  clock_gettime(CLOCK_REALTIME, &moment);
  if (told) *told = moment.tv_sec;
  return moment.tv_sec;
}
